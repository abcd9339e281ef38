"""Space set aside in a directory, so that a full disk can still be pruned: before a prune deletes anything it writes a
mark, and that takes space. OSError passes through.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from drkit.storage.base import RESERVED
from drkit.storage.local.files import opened_directory

NAME = "reserve"
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
    """Remove the parts. A file of such a name that holds anything is not one of them, and stays."""
    with opened_directory(root) as parent, opened_directory(RESERVED, parent, create=True) as tmp:
        for name in _names():
            with contextlib.suppress(FileNotFoundError):
                if _is_part(name, tmp):
                    os.unlink(name, dir_fd=tmp)


def _is_part(name: str, directory: int) -> bool:
    """Whether it is a file of zeros alone, of the size of a part.

    Raises FileNotFoundError if there is none, and IsADirectoryError for a directory, which no part can replace.
    """
    mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if not stat.S_ISREG(mode):
        return False
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(PART_SIZE + 1) == bytes(PART_SIZE)


def is_part_name(name: str) -> bool:
    return name in _names()


def _names() -> list[str]:
    return [f"{NAME}-{number:02d}" for number in range(PARTS)]
