"""Patterns in gitignore syntax, as regular expressions. The only user of pathspec."""

from __future__ import annotations

import re
import warnings
from typing import NamedTuple


class Pattern(NamedTuple):
    """One pattern. Of the paths that `regex` finds, it takes those for which its named group is empty."""

    regex: re.Pattern[str]
    include: bool
    directories_only: bool

    def names(self, text: str, *, directory: bool) -> bool:
        """Whether it matches the path itself: where a directory above it matches, pathspec fills a named group."""
        found = self.regex.search(text) if directory or not self.directories_only else None
        return found is not None and not any(found.groupdict().values())


def compile_pattern(line: str) -> Pattern | None:
    """Return what a line of a .gitignore file means; None for a line that names nothing, such as a comment or "/".

    Raises ValueError, whose text says what is wrong, for what is not a pattern. git takes one whose [ is not closed for
    a pattern that nothing matches; nobody writes that on purpose.
    """
    from pathspec import GitIgnoreSpec  # 0.03 s to load, and most policies have no pattern
    from pathspec.patterns.gitignore import GitIgnorePatternError

    line = stripped(line)
    if not line or line.startswith("#"):
        return None
    # A slash at the end only says "directories"; it does not anchor the pattern.
    body = line.rstrip("/")
    directories_only = body != line and body not in ("", "!")
    if directories_only:
        # A blank before the slash belongs to the name. At the end it has to be escaped.
        line = body if stripped(body) == body else body[:-1] + "\\ "
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # re: what [[a] may come to mean in a later Python
            [pattern] = GitIgnoreSpec.from_lines([line]).patterns
    except GitIgnorePatternError as error:
        raise ValueError("which gitignore syntax does not allow") from error
    except re.error as error:
        said = error.msg.encode("ascii", "backslashreplace").decode()
        raise ValueError(f"where the [...] cannot be read: {said}") from error
    if pattern.include is None or pattern.regex is None:
        if "[" in line:
            raise ValueError("where a [ is not closed")
        return None
    return Pattern(pattern.regex, pattern.include, directories_only)


def stripped(line: str) -> str:
    """git strips blanks at the end, but not one that a backslash escapes."""
    rest = line.rstrip(" ")
    escapes = (len(rest) - len(rest.rstrip("\\"))) % 2
    return line[: len(rest) + escapes]
