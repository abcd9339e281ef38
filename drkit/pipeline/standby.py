"""Helpers started ahead of their use: a container takes 0.2 s to start, and up to 1 s where the disk is busy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from drkit.engine.helper.process import HelperProcess


class StandBy:
    """Has the helper of the next volume ready while one is at work.

    `start(volume)` must return a held helper. A context manager: what was not taken is ended on leaving.
    """

    def __init__(self, start: Callable[[str], HelperProcess], volumes: Sequence[str]) -> None:
        self._start = start
        self._volumes = deque(volumes)
        self._ready: tuple[str, Future[HelperProcess]] | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="drkit-standby")
        self._start_next()

    def take(self, volume: str) -> HelperProcess:
        """Return the helper of a volume, begun; the caller ends it. Volumes are taken in order, some may be left out.

        Raises whatever starting it raised.
        """
        while self._ready is not None and self._ready[0] != volume:
            self._discard()
            self._start_next()
        if self._ready is None:
            raise ValueError(f"volume {volume} is not among those left")
        _, starting = self._ready
        self._ready = None
        self._start_next()
        process = starting.result()
        try:
            process.write(b"\n")
        except BaseException:
            process.close()
            raise
        return process

    def _start_next(self) -> None:
        if self._volumes:
            volume = self._volumes.popleft()
            self._ready = volume, self._executor.submit(self._start, volume)

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
