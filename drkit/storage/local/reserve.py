"""Space set aside in a directory, so that a full disk can still be pruned: before a prune deletes anything it writes a
mark, and that takes space. OSError passes through.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from drkit.storage.base import RESERVED
from drkit.storage.local.files import opened_directory

NAME = "reserve"
"""How the names of the reserve's files in `tmp/` start, which tells them from unfinished writes."""
PARTS = 16
"""Files, so that inodes are set aside as well."""
PART_SIZE = 1024 * 1024
"""Bytes. All parts hold a mark, some small objects, and one index object, which takes five megabytes at most."""


def make_reserve(root: Path) -> None:
    """Make the missing parts, if four times the reserve is free: else it would fill the disk itself."""
    with opened_directory(root) as parent, opened_directory(RESERVED, parent, create=True) as tmp:
        for name in _names():
            state = os.fstatvfs(tmp)
            if state.f_bavail * state.f_frsize < 4 * PARTS * PART_SIZE:
                return
            with contextlib.suppress(FileExistsError):
                _make_part(name, tmp)


def _make_part(name: str, directory: int) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        os.posix_fallocate(descriptor, 0, PART_SIZE)
    except OSError:
        os.unlink(name, dir_fd=directory)
        raise
    finally:
        os.close(descriptor)


def remove_reserve(root: Path) -> None:
    for name in _names():
        (root / RESERVED / name).unlink(missing_ok=True)


def _names() -> list[str]:
    return [f"{NAME}-{number:02d}" for number in range(PARTS)]
