"""Where a passphrase comes from: a file, the environment, or somebody at a terminal. Never the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from drkit.access.identities import key_file_problem, read_passphrase
from drkit.errors import UsageError
from drkit.events import LOGGED, Events


class Asker(Protocol):
    """Somebody at a terminal."""

    def passphrase(self, name: str) -> str:
        """Ask for the passphrase of `name`, which exists. May repeat an earlier answer."""

    def new_passphrase(self, question: str) -> str:
        """Ask for a new passphrase, twice unless it is empty. Asks again until the two are the same."""


def existing_passphrase(
    file: Path | None,
    name: str,
    asker: Asker | None,
    *,
    environ: Mapping[str, str] = os.environ,
    events: Events = LOGGED,
) -> str:
    """Return the passphrase of `name`, which exists: from `file`, $DRKIT_PASSPHRASE_FILE or the terminal."""
    file = passphrase_file(file, environ, events)
    if file is not None:
        return _read(file, events)
    if asker is None:
        raise UsageError(
            f"there is no terminal to ask for the passphrase of {name}", hint="Give --passphrase-file FILE."
        )
    return asker.passphrase(name)


def passphrase_file(file: Path | None, environ: Mapping[str, str], events: Events) -> Path | None:
    """Return `file`, else the file in $DRKIT_PASSPHRASE_FILE, else None; notes where the two differ."""
    named = environ.get("DRKIT_PASSPHRASE_FILE")
    if file is not None and named and Path(named) != file:
        events.note(f"--passphrase-file {file} is used, not DRKIT_PASSPHRASE_FILE ({named})")
    return file or (Path(named) if named else None)


def new_passphrase(file: Path | None, question: str, asker: Asker | None, *, events: Events = LOGGED) -> str:
    """Return a new passphrase, never an empty one: from `file`, or asked for on the terminal."""
    passphrase = _read(file, events) if file is not None else _ask(question, asker)
    if not passphrase:
        raise UsageError("the passphrase is empty", hint="Give one of five random words or more.")
    return passphrase


def wanted_passphrase(file: Path | None, question: str, asker: Asker | None, *, events: Events = LOGGED) -> str | None:
    """As `new_passphrase`, but optional: None for an empty answer, and if there is nobody to ask."""
    if file is None and asker is None:
        return None
    return (_read(file, events) if file is not None else _ask(f"{question} (empty: do not)", asker)) or None


def _ask(question: str, asker: Asker | None) -> str:
    if asker is None:
        raise UsageError("there is no terminal to ask for the passphrase", hint="Give --passphrase-file FILE.")
    return asker.new_passphrase(question)


def _read(file: Path, events: Events) -> str:
    warn_if_exposed([file], events)
    return read_passphrase(file)


def warn_if_exposed(files: list[Path], events: Events = LOGGED) -> None:
    """Warn of files of secrets that others can read."""
    for file in files:
        if file.is_file() and (problem := key_file_problem(file)):
            events.warn(problem)
