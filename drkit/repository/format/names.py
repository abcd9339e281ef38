"""Names: of objects, of runs, and of files as they may be shown."""

from __future__ import annotations

from datetime import UTC, datetime

LOCKED_PREFIXES = ("config", "keys/", "packs/", "index/", "snapshots/", "proofs/")
"""What object lock protects: all that a snapshot needs. Every run deletes its sessions and marks again."""


def new_run_id(now: datetime, random: bytes) -> str:
    """Return a run id that sorts by time and never recurs; `random` is at least 4 bytes."""
    return f"{now.astimezone(UTC):%Y%m%dt%H%M%Sz}-{random.hex()}".lower()


def display_path(path: bytes) -> str:
    """Return a path as printable text: what is no UTF-8, and every control character, as `\\xNN`; a backslash doubled.

    Nothing that a file name holds can steer a terminal or break a line of a report. The root, an empty path, is `.`.
    """
    text = path.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text or "."
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))
