"""Which volumes drkit made on this host to try a helper out: not data, whatever a pattern of a policy says."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from drkit.errors import DrkitError


class ScratchVolumes:
    """One file per volume, held by `flock` while it is in use: a file that nobody holds was left by a killed drkit."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def made(self, volume: str) -> bool:
        """Whether this host made that volume. Its name is random, so no other volume has it by chance."""
        return (self._directory / volume).is_file()

    @contextmanager
    def one(self) -> Iterator[str]:
        """Yield a new name that is noted until the context ends. Where that cannot be written, it is only new."""
        name = f"drkit-probe-{secrets.token_hex(8)}"
        path = self._directory / name
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            yield name
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield name
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def remove_left(self, remove: Callable[[str], object]) -> None:
        """Have `remove` remove what killed runs left; one that it cannot remove stays noted, for the next time."""
        for path in sorted(self._directory.glob("drkit-probe-*")):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(path.name)
                path.unlink(missing_ok=True)
            except (BlockingIOError, DrkitError):
                continue
            finally:
                os.close(descriptor)
