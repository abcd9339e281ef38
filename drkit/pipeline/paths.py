"""Paths inside a captured directory, as bytes that may hold anything: how tar is asked for them, how it names them."""

from __future__ import annotations


def listed_name(path: bytes) -> bytes:
    """Return the name by which tar is asked for a path. It never starts with a dash, as an option would."""
    return b"./" + path if path else b"."


def member_path(name: bytes) -> bytes:
    """Return the path for a name as tar writes it, such as `./a/`, `./` or `a`. The root is empty."""
    name = name.removeprefix(b"./").rstrip(b"/")
    return b"" if name == b"." else name


def parents(path: bytes) -> list[bytes]:
    """Return the directories above a path, the root first. The root has none."""
    if not path:
        return []
    parts = path.split(b"/")
    return [b"/".join(parts[:depth]) for depth in range(len(parts))]
