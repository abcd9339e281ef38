"""Questions to whoever is at the terminal. They go to stderr, since stdout may be a document."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer


class Prompt:
    """Asks for passphrases, once for each name: a backup and the copy after it open the same repository."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def passphrase(self, name: str) -> str:
        if name not in self._known:
            self._known[name] = str(typer.prompt(f"Passphrase of {name}", hide_input=True, err=True))
        return self._known[name]

    def new_passphrase(self, question: str) -> str:
        passphrase = str(typer.prompt(question, default="", hide_input=True, show_default=False, err=True))
        if passphrase:
            typer.prompt("The same again", hide_input=True, value_proc=_same_as(passphrase), err=True)
        return passphrase


def _same_as(passphrase: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value != passphrase:
            raise typer.BadParameter("it is not the same")  # typer asks again
        return value

    return check


def prompt() -> Prompt | None:
    """Return None where there is no terminal to ask on."""
    return Prompt() if sys.stdin.isatty() and sys.stderr.isatty() else None
