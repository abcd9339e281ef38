"""Several pieces of real code that take turns at every storage call, in an order that a seed decides."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator

from drkit.errors import StorageUnavailable
from drkit.storage.base import MAX_OBJECT, Data, ObjectInfo, Storage
from drkit.storage.forwarding import ForwardingStorage
from tests.support.memory_storage import MemoryStorage


class Crash(BaseException):
    """An actor ends here: nothing that it has not done yet is done, not even its clean-up."""


class Scheduler:
    """Runs actors in threads, one at a time; whoever calls the storage may lose his turn to anybody."""

    def __init__(self, inner: MemoryStorage, rng: random.Random) -> None:
        self.inner = inner
        self.rng = rng
        self.calls = 0
        self._turn = threading.Condition()
        self._running: str | None = None
        self._waiting: set[str] = set()
        self._ended: set[str] = set()
        self.errors: dict[str, BaseException] = {}
        self.crashed: set[str] = set()
        self.time = 0.0

    def storage(self, actor: str, *, crash_at: int | None = None) -> Storage:
        return _Scheduled(self, actor, crash_at)

    def run(self, actors: dict[str, Callable[[], None]], check: Callable[[], None]) -> None:
        """Run all to their ends; `check` between any two storage calls."""
        threads = [threading.Thread(target=self._act, args=item, daemon=True) for item in actors.items()]
        for thread in threads:
            thread.start()
        with self._turn:
            while True:
                self._turn.wait_for(lambda: self._running is None and self._waiting | self._ended >= actors.keys())
                if not self._waiting:
                    break
                check()
                self._running = self.rng.choice(sorted(self._waiting))
                self._waiting.discard(self._running)
                self._turn.notify_all()
        for thread in threads:
            thread.join()
        check()

    def _act(self, name: str, action: Callable[[], None]) -> None:
        self.pause(name)
        try:
            action()
        except Crash:
            self.crashed.add(name)
        except BaseException as error:  # noqa: BLE001 (told to the test)
            self.errors[name] = error
        with self._turn:
            self._ended.add(name)
            self._running = None
            self._turn.notify_all()

    def pause(self, name: str) -> None:
        with self._turn:
            self._waiting.add(name)
            if self._running == name:
                self._running = None
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._running == name)


class _Scheduled(ForwardingStorage):
    """The storage as one actor sees it. Calls of the actor's worker threads count as its own."""

    def __init__(self, scheduler: Scheduler, actor: str, crash_at: int | None) -> None:
        super().__init__(scheduler.inner)
        self._scheduler = scheduler
        self._actor = actor
        self._left = crash_at
        self._lock = threading.Lock()

    def _wait(self) -> None:
        if threading.current_thread().name == "drkit-session":  # where a test takes longer than a minute
            raise StorageUnavailable("a heartbeat comes by the clock, and is no part of a schedule")
        if self._left is not None:
            if self._left <= 0:
                raise Crash
            self._left -= 1
        self._scheduler.calls += 1
        self._scheduler.pause(self._actor)

    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        with self._lock:
            self._wait()
            super().put(key, data, locked=locked)

    def get(self, key: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT) -> bytes:
        with self._lock:
            self._wait()
            return super().get(key, offset, length, limit=limit)

    def stat(self, key: str) -> ObjectInfo:
        with self._lock:
            self._wait()
            return super().stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._lock:
            self._wait()
            return super().list(prefix)

    def delete(self, key: str) -> None:
        with self._lock:
            self._wait()
            super().delete(key)


class TurnClock:
    """A prune's clock: time passes while others act, so that a run which got no turn for long looks dead."""

    def __init__(self, scheduler: Scheduler, actor: str) -> None:
        self._scheduler, self._actor = scheduler, actor

    def now(self) -> float:
        return self._scheduler.time

    def sleep(self, seconds: float) -> None:
        self._scheduler.time += self._scheduler.rng.choice([0, 10, 50, 200])
        self._scheduler.pause(self._actor)
