"""Names: of objects, of runs, and of files as they may be shown."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from drkit.errors import IntegrityError

LOCKED_PREFIXES = ("config", "keys/", "packs/", "index/", "snapshots/", "proofs/")
"""What object lock protects: all that a snapshot needs. Every run deletes its sessions and marks again."""


def content_name(body: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 of an object's bytes in hex: keys of packs, index objects, wraps and labels end with it."""
    return hashlib.sha256(body).hexdigest()


def check_content_name(key: str, body: bytes | bytearray | memoryview) -> None:
    """Raise IntegrityError unless an object has the bytes that its key was made from. Needs no secret."""
    if content_name(body) != key.rpartition("/")[2]:
        raise IntegrityError(f"{key} is damaged: its bytes are not those it was named after", object_name=key)


def new_run_id(now: datetime, random: bytes) -> str:
    """Return a run id that sorts by time and never recurs; `random` is at least 4 bytes."""
    return f"{now.astimezone(UTC):%Y%m%dt%H%M%Sz}-{random.hex()}".lower()


def shortened(text: str, size: int) -> str:
    """Return a text of at most `size` bytes in UTF-8: whole, or its beginning and how much was left out."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= size:
        return text
    end = f"... ({len(data)} bytes)"
    return data[: size - len(end)].decode("utf-8", "ignore") + end


def display_path(path: bytes) -> str:
    """Return a path as printable text.

    Control characters and bytes that are not UTF-8 become `\\xNN`, and a backslash is doubled: no file name can steer a
    terminal or break a line of a report. The root, an empty path, is `.`.
    """
    text = path.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text or "."
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))
