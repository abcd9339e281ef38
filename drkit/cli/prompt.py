"""Questions to whoever is at the terminal. They go to stderr, since stdout may be a document."""

from __future__ import annotations

import sys

import typer

from drkit.errors import UsageError


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
            again = str(typer.prompt("The same again", default="", hide_input=True, show_default=False, err=True))
            if again != passphrase:
                raise UsageError("the two passphrases differ", hint="Run the same again, and type it twice.")
        return passphrase


def prompt() -> Prompt | None:
    """Return None where there is no terminal to ask on."""
    return Prompt() if sys.stdin.isatty() and sys.stderr.isatty() else None
