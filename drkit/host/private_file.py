"""Files that only we may read, written whole or not at all. Whatever a user names as an output is written here."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from drkit.errors import DrkitError, UsageError, reason
from drkit.storage.local.files import make_directories, opened_directory, publish

STATE_HINT = "Run as root, or name a writable directory in DRKIT_STATE_DIR."
"""What to do where something cannot be kept in the state directory."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def require_new(path: Path, error: type[DrkitError] = UsageError) -> None:
    """Raise `error` where something is at `path`, be it a link that leads nowhere. Ask before the work begins."""
    if os.path.lexists(path):
        raise error(f"{path} exists, and is not overwritten", hint="Name another file.")


@contextmanager
def new_file(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Yield a file to write. When the block ends well it is whole, durable and at `path`; otherwise nothing is.

    Until then it has a name of its own beside `path`, which nobody can guess, and mode 0600. What is at `path`, or
    appears there meanwhile, is left as it is. Raises DrkitError for that, and for any OSError in the block.
    """
    require_new(path, DrkitError)
    unfinished = f".drkit-{secrets.token_hex(16)}.unfinished"
    try:
        with opened_directory(path.absolute().parent) as directory:
            descriptor = os.open(unfinished, _NEW, 0o600, dir_fd=directory)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    yield file
                    file.flush()
                    os.fchmod(descriptor, mode)
                    os.fsync(descriptor)
                publish(unfinished, directory, path.name, directory)
            finally:
                with suppress(FileNotFoundError):  # it was renamed, where there are no hard links
                    os.unlink(unfinished, dir_fd=directory)
            os.fsync(directory)
    except FileExistsError:
        raise DrkitError(
            f"{path} appeared while it was to be written, and is not overwritten", hint="Name another file."
        ) from None
    except OSError as error:
        raise _explained(path, error) from error


def write_new(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a new file, and the directories above it, as `new_file` does."""
    try:
        make_directories(path.absolute().parent)
    except OSError as error:
        raise _explained(path, error) from error
    with new_file(path, mode) as file:
        file.write(text.encode())


def replace(path: Path, text: str) -> None:
    """Write a file of the state directory, with mode 0600, in place of any that exists.

    Readers see the old one or the new one, whole. Durable on return. Raises DrkitError.
    """
    unfinished = f".{path.name}.{secrets.token_hex(4)}"
    try:
        make_directories(path.absolute().parent)
        with opened_directory(path.parent) as directory:
            descriptor = os.open(unfinished, _NEW, 0o600, dir_fd=directory)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    os.fchmod(descriptor, 0o600)
                    file.write(text.encode())
                    file.flush()
                    os.fsync(descriptor)
                os.rename(unfinished, path.name, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(unfinished, dir_fd=directory)
    except OSError as error:
        raise _explained(path, error, STATE_HINT) from error


def open_lock(path: Path) -> int:
    """Open a file of the state directory for `flock`, made where there is none; return its descriptor.

    The caller closes it. Raises DrkitError.
    """
    try:
        make_directories(path.absolute().parent)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _explained(path, error, STATE_HINT) from error


def _explained(path: Path, error: OSError, hint: str = "Make its directory writable.") -> DrkitError:
    return DrkitError(f"cannot write {path}: {reason(error)}", hint=hint)
