"""Which paths of a volume: patterns in gitignore syntax, anchored at the volume's root. The only user of pathspec.

pathspec turns a pattern into a regular expression that answers for files only, also for those below a directory that
matches: it judges as git does when it lists files. A volume has directories too, and an empty one counts. So the rules
by which git judges one path are here: the last pattern that matches the path itself decides, else its directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from drkit.errors import UsageError

# A regular expression takes a newline for the end. No decoded path and no pattern can hold this lone surrogate.
_NEWLINE = "\ud800"


class _Pattern(NamedTuple):
    regex: re.Pattern[str]
    include: bool
    directories_only: bool

    def names(self, text: str, *, directory: bool) -> bool:
        """Whether it matches the path itself. pathspec marks a match of a directory above it by a named group."""
        found = self.regex.search(text) if directory or not self.directories_only else None
        return found is not None and not any(found.groupdict().values())


class Patterns:
    """Gitignore patterns over paths in bytewise order."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = _compile(patterns) if patterns else []
        self._patterns.reverse()
        self._directories: set[bytes] = set()

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def match(self, path: bytes, *, directory: bool) -> bool:
        """Whether a path matches, or lies in a directory that did. Ask in bytewise path order: parents come first.

        As in git, nothing below a matched directory can be taken out again by a `!` pattern.
        """
        matched = path.rpartition(b"/")[0] in self._directories or self.match_alone(path, directory=directory)
        if matched and directory:
            self._directories.add(path)
        return matched

    def match_alone(self, path: bytes, *, directory: bool) -> bool:
        """Whether a path itself matches: what lies in a matching directory does not. The root never does."""
        text = path.decode("utf-8", "surrogateescape").replace("\n", _NEWLINE)
        if text:
            for pattern in self._patterns:
                if pattern.names(text, directory=directory):
                    return pattern.include
        return False


def _compile(lines: Iterable[str]) -> list[_Pattern]:
    from pathspec import GitIgnoreSpec  # most policies have no pattern, and it takes its time to load
    from pathspec.patterns.gitignore import GitIgnorePatternError

    compiled = []
    for line in lines:
        # git cuts trailing blanks off unless a backslash stands before them.
        line = line if line.endswith("\\ ") else line.rstrip(" ")
        # The slash at the end says no more than "directories", and anchors nothing.
        body = line.rstrip("/")
        directories_only = body != line and body not in ("", "!")
        try:
            patterns = GitIgnoreSpec.from_lines([body if directories_only else line]).patterns
        except GitIgnorePatternError as error:
            raise UsageError(f"invalid pattern: {error}", hint="Patterns follow gitignore syntax.") from error
        for pattern in patterns:
            if pattern.include is not None and pattern.regex is not None:
                compiled.append(_Pattern(pattern.regex, pattern.include, directories_only))
    return compiled
