"""A problem in a policy: where it is and what is wrong there, in words that are safe to print."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

Key = tuple[str | int, ...]

_LONGEST = 60
_SECRET = re.compile(r"AGE-SECRET-KEY-", re.IGNORECASE)


class Problem(NamedTuple):
    where: Key
    what: str  # "...; expected ..."
    first: Key | None = None  # the key that this one repeats


def key_path(where: Key) -> str:
    """`protect.volumes[0].name`; a key that is not a plain word is quoted."""
    path = ""
    for key in where:
        if isinstance(key, int):
            path += f"[{key}]"
            continue
        shown = key if key.isascii() and key.replace("_", "").replace("-", "").isalnum() else quote(key)
        path += f".{shown}" if path else shown
    return path


def describe(value: object) -> str:
    """Describe a value so that its author recognises it, without secrets, control characters or long texts."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {shorten(str(value))}"
        case str():
            return "a secret key" if is_secret(value) else f"the text {quote(value)}"
        case dict():
            return "a mapping"
    return "a list"


def is_secret(text: str) -> bool:
    """Whether the text is a private key, pasted where its file should be named. No message may repeat it."""
    return bool(_SECRET.search(text))


def quote(text: str) -> str:
    """The text in double quotes, on one line, in ASCII."""
    return json.dumps(shorten(text))


def shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
