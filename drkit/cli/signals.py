"""The signals that end a run: on the way up from the first one, unfinished work is undone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_STOPPING = {
    signal.SIGHUP: "hung up",
    signal.SIGINT: "interrupted",
    signal.SIGQUIT: "told to quit",
    signal.SIGTERM: "terminated",
}
_SOON_SECONDS = 0.02
_LOCKING = frozenset({"__enter__", "__exit__", "_acquire_restore", "_release_save", "notify", "notify_all"})
"""Functions of `threading` that wait for moments at most."""


class Stopped(SystemExit):
    """A signal arrived. Not an Exception: on its way up unfinished work is undone, and nothing takes it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.code: int = 128 + number
        self.signal = signal.Signals(number)

    def __str__(self) -> str:
        return _STOPPING[self.signal]


_last: weakref.ref[Stopped] | None = None
"""The last one that was raised. As long as it lives it is on its way up, or being handled."""


def install() -> None:
    """Let the signals raise Stopped. A SIGHUP that is ignored stays so: that is what `nohup` is for."""
    for number in _STOPPING:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    sys.unraisablehook = _raise_elsewhere


def ignore() -> None:
    """Let nothing change the exit code any more: there is nothing left to undo."""
    for number in (*_STOPPING, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> None:
    global _last
    if _last is not None and _last() is not None:
        # Straight to the descriptor: the signal may have come while a message was being written.
        with suppress(OSError):
            os.write(2, f"drkit: {_STOPPING[signal.Signals(number)]} again: still undoing\n".encode())
    elif _is_importing(frame) or _is_locking(frame):
        _stop_soon(number)
    else:
        stopped = Stopped(number)
        _last = weakref.ref(stopped)
        try:
            raise stopped
        finally:
            del stopped  # its traceback leads here: it would live for ever


def _stop_soon(number: int) -> None:
    signal.signal(signal.SIGALRM, lambda _, later: _stop(number, later))
    signal.setitimer(signal.ITIMER_REAL, _SOON_SECONDS)


def _raise_elsewhere(unraisable: UnraisableHookArgs) -> None:
    """Raise again what was raised where nothing can be, as in a destructor: it would be lost, and drkit run on."""
    global _last
    if isinstance(unraisable.exc_value, Stopped):
        _last = None
        _stop_soon(unraisable.exc_value.signal)
    else:
        sys.__unraisablehook__(unraisable)


def stopped_by(error: BaseException) -> Stopped | None:
    """Return the Stopped that an error took the place of, on its way up."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, Stopped):
        cause = cause.__context__
    return cause


def _is_importing(frame: FrameType | None) -> bool:
    """Whether the import system is at work: raised there, it can leave a module's lock held for the undoing."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _is_locking(frame: FrameType | None) -> bool:
    """Whether a lock is just being taken or given back: its owner would then give back what it does not hold."""
    if frame is None or frame.f_code.co_filename != threading.__file__:
        return False
    # Of Condition.wait: it has been told, and takes its lock back.
    return frame.f_code.co_name in _LOCKING or frame.f_locals.get("gotit") is True
