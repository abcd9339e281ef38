"""A program of the operator's that prints a secret: run without a shell, in bounded time and memory."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from drkit.errors import AccessDenied, reason

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60.0
MAX_BYTES = 1 << 20
_MAX_STDERR = 64 << 10


def run_secret_command(command: Sequence[str], what: str, *, timeout: float = TIMEOUT_SECONDS) -> bytes:
    """Return what the program writes to stdout; its stderr is logged, its stdout never is.

    It has no terminal, and after `timeout` seconds it is killed with all that it started. Raises AccessDenied.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a group of its own, which can be killed whole
        )
    except OSError as error:
        raise _failed(what, command, f"cannot be run: {reason(error)}") from None
    try:
        secret, said, complete = _collect(process, time.monotonic() + timeout)
    finally:
        with suppress(ProcessLookupError):  # it ended, and whatever it started too
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    for line in said.decode("utf-8", "backslashreplace").splitlines():
        log.info("%s: %s", command[0], "".join(char if char.isprintable() else "?" for char in line))
    if not complete:
        raise _failed(what, command, f"did not end within {timeout:g} s, or printed more than {MAX_BYTES} bytes")
    if process.returncode:
        raise _failed(what, command, f"ended with exit code {process.returncode}")
    if not secret.strip():
        raise _failed(what, command, "printed nothing")
    return secret


def _collect(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes, bool]:
    """Return stdout, the beginning of stderr, and whether the program ended by itself within its bounds."""
    assert process.stdout is not None
    assert process.stderr is not None
    texts = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for pipe in texts:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for key, _ in ready:
                pipe = process.stdout if key.fileobj is process.stdout else process.stderr
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(pipe)
                texts[pipe] += data
            del texts[process.stderr][_MAX_STDERR:]
            if len(texts[process.stdout]) > MAX_BYTES:
                break
        ended = not selector.get_map()
    if ended:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    return bytes(texts[process.stdout]), bytes(texts[process.stderr]), ended and process.returncode is not None


def _failed(what: str, command: Sequence[str], problem: str) -> AccessDenied:
    return AccessDenied(
        f"{what} {command[0]} {problem}", hint=f"Run it by hand as this user; it has to print the {what.split('_')[0]}."
    )
