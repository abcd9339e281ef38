"""Files that only we may read, written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from drkit.errors import DrkitError, reason
from drkit.storage.local.files import sync_directory


def write_new(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a new file durably. With the default mode, others can read it at no time.

    Raises DrkitError if the file exists, and leaves it as it is. A file that could not be written whole is removed.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise DrkitError(f"{path} exists, and is not overwritten", hint="Name another file.") from None
    except OSError as error:
        raise _explained(path, error) from error
    try:
        _fill(descriptor, text, mode)
        sync_directory(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _explained(path, error) from error


def replace(path: Path, text: str) -> None:
    """Write a file with mode 0600 in place of any that exists. Readers see the old one or the new one, whole."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _fill(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), text, 0o600)
            unfinished.rename(path)
            sync_directory(path.parent)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise _explained(path, error) from error


def _fill(descriptor: int, text: str, mode: int) -> None:
    with open(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _explained(path: Path, error: OSError) -> DrkitError:
    return DrkitError(f"cannot write {path}: {reason(error)}", hint="Make its directory writable.")
