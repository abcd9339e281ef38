"""Paths inside a volume, as bytes that may hold anything: how tar is asked for them and how it names them."""

from __future__ import annotations


def listed_name(path: bytes) -> bytes:
    """Return the name under which tar is asked for a path: it can start with no dash."""
    return b"./" + path if path else b"."


def member_path(name: bytes) -> bytes:
    """Return the path for a name as tar writes it: `./a/`, `./`, `a`."""
    name = name.removeprefix(b"./").rstrip(b"/")
    return b"" if name == b"." else name


def parents(path: bytes) -> list[bytes]:
    """Return the directories above a path, the root (empty) first."""
    if not path:
        return []
    parts = path.split(b"/")
    return [b"/".join(parts[:depth]) for depth in range(len(parts))]
