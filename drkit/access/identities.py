"""Where identities come from: a file, a descriptor or a command; plain or under a passphrase. Never from arguments."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drkit.access.secret_command import MAX_BYTES, run_secret_command
from drkit.errors import AccessDenied, UsageError, reason
from drkit.events import LOGGED, Events
from drkit.repository.keys.identity import (
    Identity,
    check_work_factor,
    is_passphrase_protected,
    parse_identities,
    unwrap_with_passphrase,
)

AskPassphrase = Callable[[str], str]
"""Asks for a passphrase on a terminal. Takes the name of what the passphrase protects."""


@dataclass(frozen=True)
class IdentitySource:
    """Where to read identities, one of file, descriptor and command, and the passphrase if one protects them."""

    file: Path | None = None
    descriptor: int | None = None
    command: tuple[str, ...] | None = None
    passphrase_file: Path | None = None
    passphrase_command: tuple[str, ...] | None = None


def read_identities(
    source: IdentitySource, ask: AskPassphrase | None = None, *, events: Events = LOGGED
) -> list[Identity]:
    """Return all identities of a source. Raises AccessDenied, which never quotes what was read.

    What a command writes to its stderr becomes notes.
    """
    data, name = _read(source, events)
    if not is_passphrase_protected(data):
        return parse_identities(_text(data, name), source=name)
    check_work_factor(data, source=name)
    passphrase = _passphrase(source, ask, name, events)
    opened = unwrap_with_passphrase(data, passphrase, source=name)
    if opened is None:
        raise AccessDenied(
            f"the passphrase does not open {name}, or that file is damaged", hint=f"Try it by hand: age -d {name}."
        )
    return parse_identities(_text(opened, name), source=name)


def _read(source: IdentitySource, events: Events) -> tuple[bytes, str]:
    if source.descriptor is not None:
        return _read_descriptor(source.descriptor), f"descriptor {source.descriptor}"
    if source.command is not None:
        output = run_secret_command(source.command, "identity_command", events=events)
        return output, f"the output of {source.command[0]}"
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


def _passphrase(source: IdentitySource, ask: AskPassphrase | None, name: str, events: Events) -> str:
    if source.passphrase_file is not None:
        return read_passphrase(source.passphrase_file)
    if source.passphrase_command is not None:
        output = run_secret_command(source.passphrase_command, "passphrase_command", events=events)
        return _text(output, source.passphrase_command[0]).rstrip("\r\n")
    if ask is None:
        raise AccessDenied(
            f"{name} is protected by a passphrase, and there is no terminal to ask for it",
            hint="Set passphrase_file or passphrase_command in the policy, or DRKIT_PASSPHRASE_FILE.",
        )
    return ask(name)


def read_passphrase(path: Path) -> str:
    """Return a file's text without the line end, as a passphrase. Raises AccessDenied if it is empty or unreadable."""
    passphrase = _text(read_secret(path, "passphrase"), str(path)).rstrip("\r\n")
    if not passphrase:
        raise AccessDenied(f"passphrase file {path} is empty", hint="Write the passphrase into it, on one line.")
    return passphrase


def read_secret(path: Path, what: str) -> bytes:
    """Read the file of a secret; `what` names the secret in messages. Raises AccessDenied, which never quotes it."""
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
        raise AccessDenied(f"{name} is not text", hint="Name the file that holds the secret.") from None


def descriptor_from(text: str) -> int:
    """Return the number in DRKIT_IDENTITY_FD. Raises UsageError for anything else."""
    if not (text.isascii() and text.isdigit() and len(text) < 7) or int(text) in (1, 2):
        raise UsageError(
            "DRKIT_IDENTITY_FD is not the number of a descriptor to read from",
            hint="Write it as in: DRKIT_IDENTITY_FD=3 drkit snapshots 3<identity.txt.",
        )
    return int(text)


def key_file_problem(path: Path) -> str | None:
    """Return why a secret's file is not private, None if it is."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        return f"{path} can be read by others (mode {mode:04o}): chmod 600 {path}"
    return None
