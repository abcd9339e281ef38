"""The signals that end a run: on the way up from the first one, unfinished work is undone."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

_STOPPING = {
    signal.SIGHUP: "hung up",
    signal.SIGINT: "interrupted",
    signal.SIGQUIT: "told to quit",
    signal.SIGTERM: "terminated",
}
_IMPORT_SECONDS = 0.02


class Stopped(SystemExit):
    """A signal arrived. Not an Exception: on its way up unfinished work is undone, and nothing takes it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.code: int = 128 + number
        self.signal = signal.Signals(number)

    def __str__(self) -> str:
        return _STOPPING[self.signal]


def install() -> None:
    """Let the signals raise Stopped. A SIGHUP that is ignored stays so: that is what `nohup` is for."""
    for number in _STOPPING:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def ignore() -> None:
    """Let nothing change the exit code any more: there is nothing left to undo."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> None:
    if _is_undoing():
        # Straight to the descriptor: the signal may have come while a message was being written.
        with suppress(OSError):
            os.write(2, f"drkit: {_STOPPING[signal.Signals(number)]} again: still undoing\n".encode())
    elif _is_importing(frame):
        # Raised inside the import system, it can leave a module's lock held, and the undoing would wait for that.
        signal.signal(signal.SIGALRM, lambda _, later: _stop(number, later))
        signal.setitimer(signal.ITIMER_REAL, _IMPORT_SECONDS)
    else:
        raise Stopped(number)


def _is_undoing() -> bool:
    """Whether a Stopped is being handled now, somewhere down the stack."""
    error = sys.exception()
    while error is not None:
        if isinstance(error, Stopped):
            return True
        error = error.__context__
    return False


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
