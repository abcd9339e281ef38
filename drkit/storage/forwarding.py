"""A storage around another one. Whatever the outer one does not do itself, the inner one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Self

from drkit.storage.base import MAX_OBJECT, Data, ObjectInfo, Storage, StoreInfo, Tampering


class ForwardingStorage(Storage):
    """Forwards the whole contract, so that no default of the base class stands in for the inner storage."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.url = inner.url
        self.traits = inner.traits

    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        self.inner.put(key, data, locked=locked)

    def get(self, key: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT) -> bytes:
        return self.inner.get(key, offset, length, limit=limit)

    def stat(self, key: str) -> ObjectInfo:
        return self.inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self.inner.list(prefix)

    def delete(self, key: str) -> None:
        self.inner.delete(key)

    def single_writer(self) -> Self:
        view = super().single_writer()
        view.inner = self.inner.single_writer()
        return view

    def fetch_ahead(self, keys: Sequence[str]) -> None:
        self.inner.fetch_ahead(keys)

    def renew_locks(self, prefixes: Sequence[str], needed: Callable[[str], bool]) -> int:
        return self.inner.renew_locks(prefixes, needed)

    def holds_locks(self, key: str) -> bool:
        return self.inner.holds_locks(key)

    def try_tampering(self) -> Tampering | None:
        return self.inner.try_tampering()

    def shadowed_objects(self) -> Iterator[tuple[str, str]]:
        return self.inner.shadowed_objects()

    def foreign_files(self) -> Iterator[str]:
        return self.inner.foreign_files()

    def permission_problem(self) -> str | None:
        return self.inner.permission_problem()

    def keep_reserve(self) -> None:
        self.inner.keep_reserve()

    def released_reserve(self) -> AbstractContextManager[None]:
        return self.inner.released_reserve()

    def store_info(self) -> StoreInfo:
        return self.inner.store_info()

    def server_time(self) -> datetime | None:
        return self.inner.server_time()
