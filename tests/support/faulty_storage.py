"""A storage around a real one that fails as a test has scripted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from drkit.storage.base import MAX_OBJECT, Data, ObjectInfo, Storage
from drkit.storage.forwarding import ForwardingStorage

Kind = Literal["put", "get", "stat", "list", "delete"]


class Call(NamedTuple):
    number: int  # of all calls, from 1
    kind: Kind
    key: str  # or the prefix, for list


@dataclass
class _Fault:
    error: BaseException
    call: int
    kind: Kind | None
    prefix: str
    times: int
    after: bool
    seen: int = 0

    def strikes(self, call: Call) -> bool:
        if self.kind not in (None, call.kind) or not call.key.startswith(self.prefix):
            return False
        self.seen += 1
        return self.call <= self.seen < self.call + self.times


class FaultyStorage(ForwardingStorage):
    """Counts the calls that move objects, fails those that were scripted, and shows each to `on_call` before it runs.

    To crash a process at its Nth call, let `on_call` kill it there. To pause a writer, let `on_call` wait.
    """

    def __init__(self, inner: Storage, *, on_call: Callable[[Call], None] | None = None) -> None:
        super().__init__(inner)
        self.calls: list[Call] = []
        self.on_call = on_call
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()

    def fail(
        self,
        error: BaseException,
        *,
        call: int = 1,
        kind: Kind | None = None,
        prefix: str = "",
        times: int = 1,
        after: bool = False,
    ) -> None:
        """Raise `error` at the `call`-th call, counted from now, of this kind and below this key prefix.

        `times` makes the following calls fail too. With `after` the call does its work first, as if its answer were
        lost; a listing then breaks after its last item.
        """
        self._faults.append(_Fault(error, call, kind, prefix, times, after))

    def _enter(self, kind: Kind, key: str) -> BaseException | None:
        """Count the call, raise the fault that strikes before it, and return the one that strikes after it."""
        with self._lock:
            call = Call(len(self.calls) + 1, kind, key)
            self.calls.append(call)
            struck = [fault for fault in self._faults if fault.strikes(call)]
        if self.on_call is not None:
            self.on_call(call)
        for fault in struck:
            if not fault.after:
                raise fault.error
        return struck[0].error if struck else None

    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        late = self._enter("put", key)
        super().put(key, data, locked=locked)
        if late:
            raise late

    def get(self, key: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT) -> bytes:
        late = self._enter("get", key)
        data = super().get(key, offset, length, limit=limit)
        if late:
            raise late
        return data

    def stat(self, key: str) -> ObjectInfo:
        late = self._enter("stat", key)
        info = super().stat(key)
        if late:
            raise late
        return info

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        late = self._enter("list", prefix)
        yield from super().list(prefix)
        if late:
            raise late

    def delete(self, key: str) -> None:
        late = self._enter("delete", key)
        super().delete(key)
        if late:
            raise late
