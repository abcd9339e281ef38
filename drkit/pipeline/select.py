"""Which paths: patterns in gitignore syntax, anchored at the root of what is captured.

The regular expressions of patterns match files alone, those below a matching directory included: they decide as git
does when it lists files. Here directories count too, even empty ones. So this module applies git's rules for a single
path: the last pattern that matches the path itself decides; if none does, its directory decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from drkit.errors import UsageError
from drkit.policy.patterns import Pattern, compile_pattern, stripped

# Stands for a newline, which would match `$`. It is a lone surrogate that no decoded path and no pattern can hold.
_NEWLINE = "\ud800"


class Patterns:
    """Gitignore patterns over paths in bytewise order."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = list(_compiled(patterns))
        self._patterns.reverse()
        self._directories: set[bytes] = set()

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def match(self, path: bytes, *, directory: bool) -> bool:
        """Whether a path matches, or lies in a directory that did. Ask in bytewise path order, so parents come first.

        As in git, a `!` pattern cannot bring back what lies below a matched directory.
        """
        matched = path.rpartition(b"/")[0] in self._directories or self.match_alone(path, directory=directory)
        if matched and directory:
            self._directories.add(path)
        return matched

    def excludes(self, path: bytes, *, directory: bool) -> bool:
        """Whether a path matches, or lies in a directory that does. May be asked in any order."""
        parts = path.split(b"/")
        above = (b"/".join(parts[:depth]) for depth in range(1, len(parts)))
        return (
            path in self._directories
            or any(self.match_alone(parent, directory=True) for parent in above)
            or self.match_alone(path, directory=directory)
        )

    def match_alone(self, path: bytes, *, directory: bool) -> bool:
        """Whether a path itself matches. Lying in a matching directory does not count. The root never matches."""
        text = path.decode("utf-8", "surrogateescape").replace("\n", _NEWLINE)
        if text:
            for pattern in self._patterns:
                if pattern.names(text, directory=directory):
                    return pattern.include
        return False


def literal_prefix(pattern: str) -> tuple[bytes, bool] | None:
    """Return what every path that a pattern matches starts with, and whether that is the whole pattern.

    A whole pattern matches that path, and with it what lies below. None for a pattern that may match anywhere, for one
    that brings back what others match, and for what is no pattern.
    """
    body = stripped(pattern).rstrip("/")
    if body.startswith(("!", "#")) or "/" not in body:
        return None
    text = body.removeprefix("/")
    literal = re.split(r"[*?[\\]", text, maxsplit=1)[0]
    return (literal.encode("utf-8", "surrogateescape"), literal == text) if literal else None


def _compiled(lines: Sequence[str]) -> Iterator[Pattern]:
    for line in lines:
        try:
            pattern = compile_pattern(line)
        except ValueError as error:
            raise UsageError(
                f"invalid pattern {line!r}, {error}", hint="Patterns follow gitignore syntax, such as '*.tmp'."
            ) from error
        if pattern is not None:
            yield pattern
