"""What was written for another program to replace: drkit takes paths and URLs literally, and would make it a name."""

from __future__ import annotations

import re

_EXPANDED = [
    (re.compile(r"~[^/]*"), "no shell expands the ~ here"),
    (re.compile(r".*?(\$\{[^}]*\}?|\$\([^)]*\)?|\$\w*)", re.DOTALL), "nothing expands {} here"),
    (re.compile(r".*?(\{\{.*?\}\}|\{\{)", re.DOTALL), "nothing fills in {} here"),
]
_SPECIFIER = re.compile(r".*?(%[A-Za-z])", re.DOTALL)


def not_literal(text: str) -> str | None:
    """Say what keeps a path or URL from being meant literally; None if nothing does.

    A directory whose name has such characters can be named by a file:// URL, in which they are percent-encoded.
    """
    if text != text.strip():
        return "it begins or ends with a blank, which would count"
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        return "it holds a control character"
    for pattern, what in _EXPANDED:
        if found := pattern.match(text):
            return what.format(_shown(found[1])) if found.re.groups else what
    if "://" not in text and (found := _SPECIFIER.match(text)):
        return f"nothing expands {found[1]} here"
    return None


def _shown(found: str) -> str:
    return found if len(found) <= 40 else f"{found[:37]}..."
