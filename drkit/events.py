"""What happens while an operation runs: notes, warnings and progress, for whoever watches it.

An operation's *result* says how it ended. Events tell a terminal, a daemon or metrics what happens meanwhile. Facts
that callers act on are in results; a warning is both, since `Collected` keeps it for the result.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, Timer
from typing import Protocol


class Events(Protocol):
    """Receives what happens. Every method may be called from any thread, never raises, and must return soon."""

    def note(self, message: str) -> None:
        """Something that an operator reads with interest and without alarm."""

    def detail(self, message: str) -> None:
        """Something that only a person who is looking for a fault wants to read."""

    def warn(self, message: str, *, hint: str | None = None) -> None:
        """Something that is wrong, or may become so, although the operation goes on. `hint` is the next thing to do."""

    def progress(self, task: str, count: int) -> None:
        """`count` more bytes of `task` are done."""


@dataclass(frozen=True)
class Warned:
    """A warning, as results keep it."""

    message: str
    hint: str | None = None


class Logged:
    """Sends events to the standard library's logger `drkit`; hints are in the attribute `hint` of its records."""

    def __init__(self) -> None:
        self._log = logging.getLogger("drkit")

    def note(self, message: str) -> None:
        self._log.info("%s", message)

    def detail(self, message: str) -> None:
        self._log.debug("%s", message)

    def warn(self, message: str, *, hint: str | None = None) -> None:
        self._log.warning("%s", message, extra={"hint": hint})

    def progress(self, task: str, count: int) -> None:
        pass


LOGGED: Events = Logged()
"""Where events go by default, so that none is lost."""


@dataclass
class Collected:
    """Passes events on, and keeps the warnings for a result."""

    to: Events = LOGGED
    warnings: list[Warned] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def note(self, message: str) -> None:
        self.to.note(message)

    def detail(self, message: str) -> None:
        self.to.detail(message)

    def warn(self, message: str, *, hint: str | None = None) -> None:
        with self._lock:
            self.warnings.append(Warned(message, hint))
        self.to.warn(message, hint=hint)

    def progress(self, task: str, count: int) -> None:
        self.to.progress(task, count)


@contextmanager
def noted_if_slow(events: Events, message: str, seconds: float = 3.0) -> Iterator[None]:
    """Note what is waited for, once the block has taken that long."""
    timer = Timer(seconds, events.note, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
