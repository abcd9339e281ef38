"""The engine's attach stream as three pipes, for engines that cannot see a directory of this host.

The engine multiplexes a container's stdout and stderr in frames of an 8-byte header (stream number, three zero bytes,
length as a big-endian 32-bit number) and its payload. A stream that ends inside a frame was cut.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable

from drkit.engine import containers
from drkit.engine.client import Engine
from drkit.errors import CaptureFailed, DrkitError, EngineUnavailable, reason

_HEADER = struct.Struct(">BxxxL")
_STDOUT, _STDERR = 1, 2
_RECEIVE = 1 << 16


class AttachBridge:
    """Copies between the engine and three pipes. Create it before the container starts, call `pump` after.

    `stdin` is the descriptor to write to, `stdout` and `stderr` are those to read from; the caller closes all three. It
    has two connections, so that reading and writing never wait for each other, and so that stdin can end alone over
    any transport. `failed` is told when the output breaks off.
    """

    def __init__(self, engine: Engine, container: str, failed: Callable[[DrkitError], None]) -> None:
        self._events = engine.events
        self._failed = failed
        self._what = f"container {container[:12]}"
        self._from_engine = containers.attach(engine, container, stdout=1, stderr=1)
        try:
            self._to_engine = containers.attach(engine, container, stdin=1)
        except BaseException:
            self._from_engine.close()
            raise
        self.stdout, self._stdout_end = os.pipe2(os.O_CLOEXEC)
        self.stderr, self._stderr_end = os.pipe2(os.O_CLOEXEC)
        self._stdin_end, self.stdin = os.pipe2(os.O_CLOEXEC)
        for fd in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(fd, False)
        for connection in (self._from_engine, self._to_engine):
            connection.settimeout(None)
        self._pumping = False

    def pump(self) -> None:
        self._pumping = True
        threading.Thread(target=self._pump_output, name="drkit-attach-output", daemon=True).start()
        threading.Thread(target=self._pump_input, name="drkit-attach-input", daemon=True).start()

    def end_stdin(self) -> None:
        """Close the container's stdin after it has ended.

        The engine keeps stdin open after exit; without this a writer would block forever.
        """
        with contextlib.suppress(OSError):  # already gone
            self._to_engine.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End both connections, so that the engine waits no longer for a reader of the container's output."""
        for connection in (self._from_engine, self._to_engine):
            with contextlib.suppress(OSError):  # already gone
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End both connections. The pumps then end by themselves once the caller has closed its ends of the pipes."""
        self.cut()
        if not self._pumping:
            for fd in (self._stdin_end, self._stdout_end, self._stderr_end):
                os.close(fd)
            self._from_engine.close()
            self._to_engine.close()

    def _pump_output(self) -> None:
        try:
            pump_frames(self._from_engine, {_STDOUT: self._stdout_end, _STDERR: self._stderr_end}, self._what)
        except DrkitError as error:
            self._failed(error)
        finally:
            # Close only now: a reader that meets the end of stdout must find the failure already recorded.
            os.close(self._stdout_end)
            os.close(self._stderr_end)
            self._from_engine.close()

    def _pump_input(self) -> None:
        try:
            while data := os.read(self._stdin_end, _RECEIVE):
                self._to_engine.sendall(data)
            self._to_engine.shutdown(socket.SHUT_WR)
            # Keep the connection until the engine closes its side, as it does when the container ends, or until close()
            # does. Closing it now would also end stdin, but perhaps before the engine has copied all that we sent.
            while self._to_engine.recv(1):
                pass
        except OSError as error:
            # The helper ended before it took everything. The writer gets a broken pipe, the exit code says why.
            self._events.detail(f"{self._what}: stdin: {error}")
        finally:
            os.close(self._stdin_end)
            self._to_engine.close()


def pump_frames(source: socket.socket, targets: dict[int, int], what: str) -> None:
    """Copy frames to the descriptors in `targets`, by stream number, until the stream ends.

    Raises CaptureFailed when it ends inside a frame or has a frame of another stream, EngineUnavailable when it breaks.
    """
    header = bytearray(_HEADER.size)
    payload = memoryview(bytearray(_RECEIVE))
    while (got := _receive(source, memoryview(header), what)) == _HEADER.size:
        stream, left = _HEADER.unpack(header)
        if stream not in targets:
            raise CaptureFailed(f"{what}: the engine sent a frame of unknown stream {stream}")
        while left:
            count = _receive(source, payload[: min(left, _RECEIVE)], what, some=True)
            if not count:
                raise CaptureFailed(f"{what}: the engine's stream ended inside a frame, {left} bytes short")
            left -= count
            try:
                _write_all(targets[stream], payload[:count])
            except BrokenPipeError:  # the reader is gone: the helper process was closed
                return
    if got:
        raise CaptureFailed(f"{what}: the engine's stream ended inside a frame header")


def _receive(source: socket.socket, buffer: memoryview, what: str, *, some: bool = False) -> int:
    """Fill `buffer`, short only at the end of the stream. `some`: one read of at least a byte is enough."""
    filled = 0
    while filled < len(buffer):
        try:
            count = source.recv_into(buffer[filled:])
        except OSError as error:
            raise EngineUnavailable(
                f"{what}: the engine's stream broke off ({reason(error)})",
                hint="See the engine's log: journalctl -u docker.",
            ) from error
        filled += count
        if some or not count:
            break
    return filled


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]
