"""One holder per container, so that two policies, a backup and a drill never stop or pause the same one at once."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from drkit.errors import DrkitError, UsageError, reason
from drkit.host.private_file import STATE_HINT, open_lock

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_MAX_NOTE = 4096


class ContainerLocks:
    """One file per container, held by `flock`: the kernel releases it however its holder ends.

    The files stay: if one were removed, two processes could hold the same container.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def held(self, container_id: str, purpose: str) -> Iterator[None]:
        """Hold a container while the context lasts. `purpose` is what other processes are told meanwhile.

        `container_id` is the engine's own, of 64 hex digits: a name can come to mean another container. Raises
        DrkitError at once, naming the holder, where somebody holds it, and where the file cannot be written.
        """
        if not _CONTAINER_ID.fullmatch(container_id):
            raise UsageError(f"{container_id!a} is not the id of a container", hint="Give all 64 hex digits of it.")
        path = self._directory / container_id
        descriptor = open_lock(path)
        try:
            try:
                _hold(descriptor, container_id, purpose)
            except OSError as error:
                raise DrkitError(f"cannot write {path}: {reason(error)}", hint=STATE_HINT) from error
            yield
        finally:
            os.close(descriptor)


def _hold(descriptor: int, container_id: str, purpose: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DrkitError(
            f"container {container_id[:12]} is held by {_holder(descriptor)}",
            hint="Wait for its end, then run the same again.",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "purpose": purpose}).encode()[:_MAX_NOTE], 0)


def _holder(descriptor: int) -> str:
    """Say who holds it. The note is only for people: the kernel decides who holds the file."""
    with suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
        note = json.loads(os.pread(descriptor, _MAX_NOTE, 0))
        return f"process {int(note['pid'])} ({note['purpose']})"
    return "another drkit"
