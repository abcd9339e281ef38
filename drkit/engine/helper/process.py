"""A helper container as a process with stdin, stdout and stderr.

Data travels through FIFOs in a shared directory (see fifos.py), ten to twenty times as fast as through the engine's
attach stream, which is the fallback. Neither side can hang:

- The helper opens each FIFO for reading *and* writing first, which never blocks, then for the one direction it needs.
  If drkit dies, the helper's writes fail and its reads end.
- drkit opens without blocking. It polls together with a descriptor that becomes readable when the helper or the engine
  dies.
- Every wait for something that must happen soon has a limit, after which the helper is killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from drkit.engine import containers
from drkit.engine.client import Engine
from drkit.engine.helper.attach import AttachBridge
from drkit.engine.helper.fifos import Fifos
from drkit.errors import DrkitError
from drkit.events import noted_if_slow

_STDERR_KEPT = 1 << 20
_TOKEN_SECONDS = 20.0
EXIT_SECONDS = 30.0
_KILL_SECONDS = 10.0

# The helper's side of the FIFOs. $1 is their directory, $2 a random token: its arrival proves that the engine shares
# the directory with us, and that all three are open. Only then does the task begin.
CONNECT_FIFOS = """
exec 3<>"$1/out" >"$1/out" 3<&- || exit 70
exec 3<>"$1/err" 2>"$1/err" 3<&- || exit 70
exec 3<>"$1/in" <"$1/in" 3<&- || exit 70
printf %s "$2" || exit 70
shift 2
"""
_CANNOT_RUN = (126, 127)
"""The exit statuses of a program that does not exist, or that this machine cannot run."""


@dataclass(frozen=True)
class HelperExit:
    """How a helper ended. `stderr_truncated`: it wrote more than is kept."""

    code: int
    stderr: bytes
    stderr_truncated: bool
    oom_killed: bool

    def describe(self) -> str:
        """For an error message: how it ended, and the last line of its stderr if there is one."""
        if self.oom_killed:
            return "killed by the kernel: out of memory"
        how = "was killed" if self.code == 137 else f"exit status {self.code}"
        lines = self.stderr.decode(errors="backslashreplace").strip().splitlines()
        return f"{how}: {lines[-1]}" if lines else how


class Watch:
    """What is known of a running helper. `fd` becomes readable, for good, as soon as the helper has ended or failed."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.code: int | None = None
        self.failure: DrkitError | None = None
        self.settled = threading.Event()  # no thread waits for the end any more, or none has begun to
        self.settled.set()
        self._lock = threading.Lock()
        self._open = True

    def ended(self, code: int) -> None:
        self.code = code
        self._wake()

    def failed(self, error: DrkitError) -> None:
        """Record a failure. The first one counts: later ones follow from it."""
        self.failure = self.failure or error
        self._wake()

    def follow(self, exit_code: Callable[[], int], then: Callable[[], None] = lambda: None) -> None:
        """Wait for the helper's end in a new thread, then call `then`; the engine's death counts as a failure."""

        def wait() -> None:
            try:
                self.ended(exit_code())
            except DrkitError as error:
                self.failed(error)
            finally:
                then()
                self.settled.set()

        self.settled.clear()
        threading.Thread(target=wait, name="drkit-helper-wait", daemon=True).start()

    def close(self) -> None:
        with self._lock:
            if self._open:
                self._open = False
                os.close(self.fd)

    def _wake(self) -> None:
        with self._lock:
            if self._open:
                os.eventfd_write(self.fd, 1)


class HelperProcess:
    """A running helper, as a context manager: leaving it ends and removes the helper, whatever happened.

    One thread may read while another writes. That is needed for a helper that takes a list and gives data, unless it is
    known to take the whole list before it blocks on its output.
    """

    def __init__(
        self, engine: Engine, container: str, *, what: str, error: type[DrkitError], exit_seconds: float
    ) -> None:
        self.container = container
        self.transport: Literal["fifo", "attach"] = "fifo"
        self._engine = engine
        self._what = what
        self._error = error
        self._exit_seconds = exit_seconds
        self._watch = Watch()
        self._exit: HelperExit | None = None
        self._stdin = self._stdout = self._stderr = -1
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._stderr_text = bytearray()
        self._stderr_truncated = False
        self._stderr_thread = threading.Thread(target=self._collect_stderr, name="drkit-helper-stderr", daemon=True)
        self._cut_streams: Callable[[], None] = lambda: None
        self._cleanup = contextlib.ExitStack()

    # -- what callers use

    def readinto(self, buffer: memoryview) -> int:
        """Read what there is of the helper's stdout, at least a byte; 0 at its end.

        The end alone does not prove success: call `finish`.
        """
        with self._reading:
            while True:
                if self._watch.failure:
                    raise self._watch.failure
                try:
                    count = os.readv(self._stdout, (buffer,))
                except BlockingIOError:
                    self._wait_for(self._stdout, select.POLLIN)
                    continue
                if not count and self._watch.failure:  # recorded before the end became visible
                    raise self._watch.failure
                return count

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data` to the helper's stdin."""
        left = memoryview(data).cast("B")
        try:
            with self._writing:
                while left:
                    if self._watch.failure:
                        raise self._watch.failure
                    try:
                        left = left[os.write(self._stdin, left) :]
                    except BlockingIOError:
                        self._wait_for(self._stdin, select.POLLOUT)
        except BrokenPipeError as error:
            how, said = self._how_it_ended()
            raise self._error(f"{self._what}: the helper stopped reading ({how})", said=said) from error

    def close_stdin(self) -> None:
        with self._writing:
            self._close("_stdin")

    def finish(self) -> HelperExit:
        """Close stdin, wait until the helper has ended by itself and is gone, and say how it ended.

        Call it after the last output was read. A helper that does not end in time is killed, which raises.
        """
        if self._exit is None:
            self.close_stdin()
            if not self._watch.settled.wait(self._exit_seconds):
                self.abort()
                raise self._error(
                    f"{self._what}: the helper did not end within {self._exit_seconds:.0f} seconds and was killed"
                )
            if self._watch.failure:
                raise self._watch.failure
            self._stderr_thread.join(_KILL_SECONDS)
            code = self._watch.code
            assert code is not None
            self._exit = HelperExit(
                code,
                bytes(self._stderr_text),
                self._stderr_truncated,
                code == 137 and containers.ran_out_of_memory(self._engine, self.container),
            )
        return self._exit

    def abort(self) -> None:
        """End it now, from any thread. Reads and writes under way raise an error."""
        self._watch.failed(self._error(f"{self._what}: the helper was stopped"))
        if self._watch.code is None:
            self._cut_streams()  # an engine that cannot pass on the output may not answer for a minute
            try:
                with noted_if_slow(self._engine.events, f"{self._what}: waiting for the helper to end"):
                    containers.remove(self._engine, self.container)
            except DrkitError as error:
                # It ends by itself when its FIFOs go. If the engine is gone, its next user gets that error.
                self._engine.events.warn(f"helper container {self.container[:12]}: not removed: {error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End and remove the container, and close every descriptor. Never raises: the work is done or has failed."""
        if self._watch.code is None:
            self.abort()
        with self._reading:  # its holder has been woken
            self._close("_stdout")
        with self._writing:
            self._close("_stdin")
        if self._stderr_thread.is_alive():
            self._stderr_thread.join(_KILL_SECONDS)
        self._close("_stderr")
        self._cleanup.close()
        # Until the engine has removed it, its volume counts as in use.
        self._watch.settled.wait(_KILL_SECONDS)
        self._watch.close()

    # -- how it starts

    def start_with_fifos(self, fifos: Fifos, token: str) -> bool:
        """Start the container, whose script begins with CONNECT_FIFOS; False when it does not see our FIFOs."""
        self._cleanup.callback(fifos.remove)
        self._stdout = fifos.open("out", os.O_RDONLY)
        self._stderr = fifos.open("err", os.O_RDONLY)
        self._stdin = fifos.open("in", os.O_RDWR)  # there is no reader yet
        self._watch.follow(containers.watch_removal(self._engine, self.container))
        containers.start(self._engine, self.container)
        if not self._receive(token.encode()):
            if self._watch.code not in _CANNOT_RUN:
                return False  # it ran, but without our FIFOs
            raise DrkitError(
                f"{self._what}: the helper image does not work (exit status {self._watch.code})",
                hint="See what it can do, then rebuild it: drkit helper probe, drkit helper build.",
            )
        # It now has all three open. If we are only a writer, we get EPIPE when it is gone.
        both = self._stdin
        self._stdin = fifos.open("in", os.O_WRONLY)
        os.close(both)
        self._stderr_thread.start()
        return True

    def start_attached(self) -> None:
        """Start the container and exchange data with it through the engine."""
        self.transport = "attach"
        bridge = AttachBridge(self._engine, self.container, self._watch.failed)
        self._cleanup.callback(bridge.close)
        self._cut_streams = bridge.cut
        self._stdin, self._stdout, self._stderr = bridge.stdin, bridge.stdout, bridge.stderr
        self._watch.follow(containers.watch_removal(self._engine, self.container), then=bridge.end_stdin)
        containers.start(self._engine, self.container)
        bridge.pump()
        self._stderr_thread.start()

    # -- how it works

    def _receive(self, token: bytes) -> bool:
        """Wait for the token; False when the helper ends without it, or does not write it in time."""
        deadline = time.monotonic() + _TOKEN_SECONDS
        while token:
            try:
                got = os.read(self._stdout, len(token))
            except BlockingIOError:
                got = b""
            if not token.startswith(got):
                return False
            token = token[len(got) :]
            if got:
                continue
            if self._watch.failure:
                raise self._watch.failure
            if self._watch.code is not None or time.monotonic() > deadline:
                return False
            if self._poll(self._stdout, select.POLLIN, deadline - time.monotonic()) and self._hung_up():
                time.sleep(0.01)  # it has ended; the engine reports that in a moment
        return True

    def _hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def _wait_for(self, fd: int, event: int) -> None:
        """Wait until `fd` is ready. Once the helper has ended it must be, for only the helper held the other end."""
        ended = self._watch.code is not None
        if not self._poll(fd, event, EXIT_SECONDS if ended else None):
            raise self._error(f"{self._what}: the helper has ended, but its stream has not")

    def _poll(self, fd: int, event: int, seconds: float | None) -> bool:
        poll = select.poll()
        poll.register(fd, event)
        if self._watch.code is None:
            poll.register(self._watch.fd, select.POLLIN)
        return bool(poll.poll(None if seconds is None else max(0.0, seconds) * 1000))

    def _collect_stderr(self) -> None:
        """Keep the beginning of the helper's stderr, and drain the rest so that it never blocks."""
        while True:
            ended = self._watch.code is not None or self._watch.failure is not None
            try:
                data = os.read(self._stderr, 1 << 16)
            except BlockingIOError:
                if ended:
                    return
                self._poll(self._stderr, select.POLLIN, None)
                continue
            if not data:
                return
            kept = data[: _STDERR_KEPT - len(self._stderr_text)]
            self._stderr_text += kept
            self._stderr_truncated |= len(kept) < len(data)

    def _how_it_ended(self) -> tuple[str, str]:
        """How it ended, and what another program said of that."""
        try:
            return self.finish().describe(), ""
        except DrkitError as error:
            return error.message, error.said

    def _close(self, name: str) -> None:
        fd = getattr(self, name)
        setattr(self, name, -1)
        if fd >= 0:
            os.close(fd)
