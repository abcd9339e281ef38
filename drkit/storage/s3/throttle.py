"""Bytes a second, shared by every thread that sends: a token bucket on the monotonic clock."""

from __future__ import annotations

import io
import os
import threading
import time


class Throttle:
    """Lets `rate` bytes a second pass. After a pause, at most one second's worth passes at once."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def pass_bytes(self, count: int) -> None:
        """Wait until `count` bytes may be sent."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - 1) + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            time.sleep(wait)


BLOCK = 256 * 1024


class ThrottledBody(io.RawIOBase):
    """A body that is sent block by block, so that the socket's timeout bounds each block and not a whole slow upload.

    Reads return views without copying, unless they ask for everything. They return more than is asked for: the HTTP
    client asks for 16 KiB, and each block is a system call. The body is read twice, to be signed and to be sent. Only
    the second time, from `begin` on, is it throttled.
    """

    def __init__(self, view: memoryview, throttle: Throttle | None) -> None:
        self._view = view
        self._position = 0
        self._throttle = throttle
        self._sending = False

    def begin(self) -> None:
        self._sending = True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._view.nbytes}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> memoryview | bytes:
        whole = size is None or size < 0
        end = self._view.nbytes if whole else self._position + max(size or 0, BLOCK)
        piece = self._view[self._position : end]
        self._position += len(piece)
        if self._throttle is not None and self._sending:
            self._throttle.pass_bytes(len(piece))
        return bytes(piece) if whole else piece
