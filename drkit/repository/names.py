"""How to show what a file name holds."""

from __future__ import annotations


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
