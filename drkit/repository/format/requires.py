"""`requires`: what an object of a newer drkit asks of whoever writes beside it. See FORMAT.md, section 12."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from drkit.errors import DrkitError

KNOWN: frozenset[str] = frozenset()
"""What `requires` may name: nothing yet."""


def unknown(requires: Iterable[str]) -> list[str]:
    return [name for name in requires if name not in KNOWN]


def made_by_newer(key: str, url: str, names: Sequence[str]) -> DrkitError:
    """The error for whoever stores or deletes beside an object that requires what this version does not know."""
    return DrkitError(
        f"{key} of {url} was made by a newer drkit: it requires {', '.join(names)}, which this one does not know",
        hint="Install a newer drkit. Nothing was changed.",
    )
