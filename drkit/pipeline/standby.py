"""Helpers started ahead of their use: a container takes 0.2 s to start, and up to 1 s where the disk is busy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from drkit.engine.helper.process import HelperProcess


class StandBy:
    """Has the helper of the next target ready while one is at work.

    `start(name)` must return a held helper, see `begun`. A context manager: leaving it ends the helper that was not
    taken.
    """

    def __init__(self, start: Callable[[str], HelperProcess], names: Sequence[str]) -> None:
        self._start = start
        self._names = deque(names)
        self._ready: tuple[str, Future[HelperProcess]] | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="drkit-standby")
        self._start_next()

    def take(self, name: str) -> HelperProcess:
        """Return the helper of a target, begun; the caller ends it. Raises whatever starting it raised.

        Helpers are taken in the order of `names`. Those passed over are ended.
        """
        while self._ready is not None and self._ready[0] != name:
            self._discard()
            self._start_next()
        if self._ready is None:
            raise ValueError(f"{name} is not among those left")
        _, starting = self._ready
        self._ready = None
        self._start_next()
        return begun(starting.result())

    def _start_next(self) -> None:
        if self._names:
            name = self._names.popleft()
            self._ready = name, self._executor.submit(self._start, name)

    def _discard(self) -> None:
        if self._ready is not None:
            _, starting = self._ready
            self._ready = None
            if starting.exception() is None:  # waits for it
                starting.result().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()
        self._executor.shutdown()


def begun(process: HelperProcess) -> HelperProcess:
    """Tell a held helper to begin, and return it. One that cannot be told is ended."""
    try:
        process.write(b"\n")
    except BaseException:
        process.close()
        raise
    return process
