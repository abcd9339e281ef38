"""stdin, stdout and stderr, in whatever state we were started with: closed, full, or without a reader.

What is to be written to stdout must not vanish: a write that fails raises. Messages on stderr are for whoever is there:
where nobody is, work goes on.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any

from drkit.errors import DrkitError, reason

_STDIN, _STDOUT, _STDERR = 0, 1, 2


class OutputFailed(DrkitError):
    """stdout does not take what is written there.

    Not an OSError, which others take for their own: argument parsers, and whatever writes files.
    """

    def __init__(self, error: OSError) -> None:
        closed = error.errno == errno.EBADF
        self.why = "it is closed" if closed else reason(error)
        self.reader_gone = error.errno == errno.EPIPE
        super().__init__(f"cannot write to stdout: {self.why}", hint="Send the output where there is room for it.")


class _Stdout(io.FileIO):
    def write(self, data: Any) -> int:
        while True:
            try:
                count = super().write(data)
            except OSError as error:
                raise OutputFailed(error) from error
            if count is not None:
                return count
            # Whoever shares the terminal or pipe has made it non-blocking.
            select.select([], [_STDOUT], [])


def make_usable() -> None:
    """Open what is closed, before anything else takes its number, and let stdout raise OutputFailed.

    A file opened later would get the number of a closed stream, and then everything that was meant for the stream.
    """
    for number, mode in ((_STDIN, os.O_RDONLY), (_STDOUT, os.O_RDONLY), (_STDERR, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # Of the closed numbers the lowest is taken, and that is this one. stdout is opened for reading, so that
            # writing to it fails as it does to a closed one.
            os.open(os.devnull, mode)
    sys.stdin = sys.stdin or os.fdopen(_STDIN, encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(_STDERR, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    encoding = sys.stdout.encoding if sys.stdout else "utf-8"
    # A file name must not end a listing on a terminal that cannot show it.
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Stdout(_STDOUT, "w", closefd=False)),
        encoding,
        errors="backslashreplace",
        line_buffering=os.isatty(_STDOUT),
    )


def flush_stdout() -> None:
    """Raises OutputFailed."""
    sys.stdout.flush()


def settle() -> None:
    """Drop what a stream does not take, before the interpreter tries once more and ends with a code of its own."""
    for number, stream in ((_STDOUT, sys.stdout), (_STDERR, sys.stderr)):
        try:
            stream.flush()
        except (OSError, OutputFailed):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
            stream.flush()


class Forgiving(io.TextIOBase):
    """stderr as it is now, for a progress bar: where it takes nothing, as on a terminal that is gone, work goes on."""

    def __init__(self) -> None:
        super().__init__()
        self._stream = sys.stderr  # which the bar replaces while it is shown

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()
