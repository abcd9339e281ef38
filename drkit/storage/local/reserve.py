"""Space set aside in a directory, so that a full disk can still be pruned: what a prune says before it deletes anything
takes space. Other storages have none to run out of.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from drkit.storage.base import RESERVED, Storage
from drkit.storage.local.directory import RESERVE_NAME, LocalStorage
from drkit.storage.local.files import opened_directory

PARTS = 16
"""Files, so that inodes are set aside as well."""
PART_SIZE = 1024 * 1024
"""Bytes. All of them hold a mark, some small objects, and one index object, which takes five megabytes at most."""


def keep_reserve(storage: Storage) -> None:
    """Make what is missing of the reserve, if four times as much is free; else it would fill the disk itself.

    Failing to make it fails nothing: it is there for later.
    """
    directory = _directory(storage)
    if directory is None:
        return
    with (
        contextlib.suppress(OSError),
        opened_directory(directory.parent) as root,
        opened_directory(RESERVED, root, create=True) as tmp,
    ):
        for name in _names():
            state = os.fstatvfs(tmp)
            if state.f_bavail * state.f_frsize < 4 * PARTS * PART_SIZE:
                return
            with contextlib.suppress(FileExistsError):
                _make(name, tmp)


def _make(name: str, directory: int) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        os.posix_fallocate(descriptor, 0, PART_SIZE)
    except OSError:
        os.unlink(name, dir_fd=directory)
        raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def released_reserve(storage: Storage) -> Iterator[None]:
    """Give the reserve's space back for as long as the context lasts; then make it again."""
    directory = _directory(storage)
    if directory is not None:
        for name in _names():
            with contextlib.suppress(FileNotFoundError):
                (directory / name).unlink()
    try:
        yield
    finally:
        keep_reserve(storage)


def _directory(storage: Storage) -> Path | None:
    return storage.root / RESERVED if isinstance(storage, LocalStorage) else None


def _names() -> list[str]:
    return [f"{RESERVE_NAME}-{number:02d}" for number in range(PARTS)]
