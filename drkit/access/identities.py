"""Where identities come from: a file, a descriptor, a program; plain, or under a passphrase. Never the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drkit.access.secret_command import MAX_BYTES, run_secret_command
from drkit.errors import AccessDenied, UsageError, reason
from drkit.repository.keys.identity import (
    Identity,
    check_work_factor,
    is_passphrase_protected,
    parse_identities,
    unwrap_with_passphrase,
)

AskPassphrase = Callable[[str], str]
"""Asks on a terminal; told whose passphrase it is."""


@dataclass(frozen=True)
class IdentitySource:
    """Where to read identities: one of file, descriptor and command. And the passphrase, where one protects them."""

    file: Path | None = None
    descriptor: int | None = None
    command: tuple[str, ...] | None = None
    passphrase_file: Path | None = None
    passphrase_command: tuple[str, ...] | None = None


def read_identities(source: IdentitySource, ask: AskPassphrase | None = None) -> list[Identity]:
    """Return all identities of a source. Raises AccessDenied, never quoting what was read."""
    data, name = _read(source)
    if not is_passphrase_protected(data):
        return parse_identities(_text(data, name), source=name)
    check_work_factor(data, source=name)
    passphrase = _passphrase(source, ask, name)
    opened = unwrap_with_passphrase(data, passphrase, source=name)
    if opened is None:
        raise AccessDenied(
            f"the passphrase does not open {name}, or that file is damaged", hint=f"Try it by hand: age -d {name}."
        )
    return parse_identities(_text(opened, name), source=name)


def _read(source: IdentitySource) -> tuple[bytes, str]:
    if source.descriptor is not None:
        return _read_descriptor(source.descriptor), f"descriptor {source.descriptor}"
    if source.command is not None:
        return run_secret_command(source.command, "identity_command"), f"the output of {source.command[0]}"
    assert source.file is not None
    return read_secret(source.file, "identity"), str(source.file)


def _read_descriptor(descriptor: int) -> bytes:
    data = b""
    try:
        while (part := os.read(descriptor, 1 << 16)) and len(data) <= MAX_BYTES:
            data += part
    except OSError as error:
        raise AccessDenied(
            f"descriptor {descriptor} of DRKIT_IDENTITY_FD cannot be read: {reason(error)}",
            hint="Open it for drkit, as in: DRKIT_IDENTITY_FD=3 drkit snapshots 3<identity.txt.",
        ) from None
    return data


def _passphrase(source: IdentitySource, ask: AskPassphrase | None, name: str) -> str:
    if source.passphrase_file is not None:
        return read_passphrase(source.passphrase_file)
    if source.passphrase_command is not None:
        output = run_secret_command(source.passphrase_command, "passphrase_command")
        return _text(output, source.passphrase_command[0]).rstrip("\r\n")
    if ask is None:
        raise AccessDenied(
            f"{name} is protected by a passphrase, and there is no terminal to ask for it",
            hint="Set passphrase_file or passphrase_command in the policy, or DRKIT_PASSPHRASE_FILE.",
        )
    return ask(name)


def read_passphrase(path: Path) -> str:
    """Read a passphrase: the file's text without the end of its line. Raises AccessDenied for an empty one."""
    passphrase = _text(read_secret(path, "passphrase"), str(path)).rstrip("\r\n")
    if not passphrase:
        raise AccessDenied(f"passphrase file {path} is empty", hint="Write the passphrase into it, on one line.")
    return passphrase


def read_secret(path: Path, what: str) -> bytes:
    """Read a secret's file. Raises AccessDenied, without quoting anything, when it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise AccessDenied(
            f"{what} file {path} cannot be read: {reason(error)}",
            hint=f"Name the file that holds it: {_NAMED_BY.get(what, 'identity_file in the policy')}.",
        ) from None
    if len(data) > MAX_BYTES:
        raise AccessDenied(f"{what} file {path} is larger than {MAX_BYTES} bytes", hint="Name the file that holds it.")
    return data


_NAMED_BY = {
    "identity": "identity_file in the policy, or DRKIT_IDENTITY_FILE",
    "meta key": "meta_key_file in the policy",
    "passphrase": "passphrase_file in the policy, --passphrase-file, or DRKIT_PASSPHRASE_FILE",
}


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise AccessDenied(f"{name} is no text", hint="Name the file that holds the secret.") from None


def descriptor_from(text: str) -> int:
    """The number in DRKIT_IDENTITY_FD. Raises UsageError."""
    if not (text.isascii() and text.isdigit() and len(text) < 7) or int(text) in (1, 2):
        raise UsageError(
            "DRKIT_IDENTITY_FD is not the number of a descriptor to read from",
            hint="Write it as in: DRKIT_IDENTITY_FD=3 drkit snapshots 3<identity.txt.",
        )
    return int(text)


def key_file_problem(path: Path) -> str | None:
    """Say why a secret file is not private, None when it is."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        return f"{path} can be read by others (mode {mode:04o}): chmod 600 {path}"
    return None
