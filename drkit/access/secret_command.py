"""A program of the operator's that prints a secret: run without a shell, in bounded time and memory."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from drkit.errors import AccessDenied, reason
from drkit.events import LOGGED, Events

TIMEOUT_SECONDS = 60.0
MAX_BYTES = 1 << 20
_MAX_STDERR = 64 << 10


def run_secret_command(
    command: Sequence[str], what: str, *, timeout: float = TIMEOUT_SECONDS, events: Events = LOGGED
) -> bytes:
    """Return what the program writes to stdout. Its stderr becomes notes; its stdout is shown nowhere.

    It has no terminal. When it ends, has taken `timeout` seconds or has printed more than MAX_BYTES, it is killed with
    everything that it started. Raises AccessDenied.
    """
    secret, said, pipe = bytearray(), bytearray(), subprocess.PIPE
    try:
        # A session of its own gives it a process group of its own, which can be killed whole.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True)
    except OSError as error:
        raise _failed(what, command, f"cannot be run: {reason(error)}") from None
    with process:  # leaving it closes the pipes and waits for the end
        try:
            problem = _collect(process, secret, said, timeout)
        finally:
            with suppress(ProcessLookupError):  # nothing of the group is left
                os.killpg(process.pid, signal.SIGKILL)
    for line in said.decode("utf-8", "backslashreplace").splitlines():
        events.note(f"{command[0]}: {''.join(char if char.isprintable() else '?' for char in line)}")
    if problem:
        raise _failed(what, command, problem)
    return bytes(secret)


def _collect(process: subprocess.Popen[bytes], secret: bytearray, said: bytearray, timeout: float) -> str | None:
    """Read stdout, and the beginning of stderr, until the program has ended; return what is wrong, None if nothing.

    Popen.communicate would keep everything that a runaway program prints, which could exceed the host's memory.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    deadline, late = time.monotonic() + timeout, f"did not end within {timeout:g} s"
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, secret)
        selector.register(process.stderr, selectors.EVENT_READ, said)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                return late
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                key.data.extend(data)
            del said[_MAX_STDERR:]
            if len(secret) > MAX_BYTES:
                return f"printed more than {MAX_BYTES} bytes"
    try:
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return late
    if code:
        return f"ended with exit code {code}"
    return None if secret.strip() else "printed nothing"


def _failed(what: str, command: Sequence[str], problem: str) -> AccessDenied:
    return AccessDenied(
        f"{what} {command[0]} {problem}", hint=f"Run it by hand as this user; it has to print the {what.split('_')[0]}."
    )
