"""What the fields of a record may be: each check takes a JSON value, and returns it as a snapshot holds it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from drkit.repository.format.digest import DIGEST_SIZE
from drkit.repository.format.kinds import Status
from drkit.repository.format.snapshot import parse_time

TREE = "tree"
MAX_NUMBER = 2**53 - 1
"""The largest number that every JSON reader takes exactly."""
MAX_NAME = 4096
_MAX_TEXT = 64 * 1024
MAX_LIST = 100_000
_ID = re.compile(r"[a-z0-9._-]{1,255}")
_HEX = re.compile(r"[0-9a-f]+")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]00:00)", re.ASCII)

Check = Callable[[Any], Any]
"""Raises ValueError for what the field must not be."""
T = TypeVar("T")


def build(kind: type[T], checks: Mapping[str, Check], raw: Any) -> T:
    """Make a record's part from the fields that are known. Raises ValueError naming the field, TypeError."""
    if not isinstance(raw, dict):
        raise ValueError("a part of it is not an object")
    found = {}
    for name, value in raw.items():
        check = checks.get(name)
        if check is not None:
            try:
                found[name] = check(value)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{name}: {error}") from None
    for each in fields(kind):  # type: ignore[arg-type]
        if each.default is MISSING and each.default_factory is MISSING and each.name not in found:
            raise ValueError(f"{each.name} is missing")
    return kind(**found)


def a_text(value: Any, *, longest: int = _MAX_TEXT) -> str:
    """Text that steers no terminal: it may have line breaks."""
    if not isinstance(value, str):
        raise ValueError("not text")
    if len(value) > longest:
        raise ValueError(f"text of {len(value)} characters")
    if not value.isprintable() and not value.replace("\n", "").replace("\t", "").isprintable():
        raise ValueError("text with control characters")
    return value


def any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not text")
    value.encode()  # raises UnicodeEncodeError, a ValueError, for half a character
    return value


def a_name(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not text")
    if not value or len(value) > MAX_NAME:
        raise ValueError(f"a name of {len(value)} characters")
    if not value.isprintable():
        raise ValueError("a name with control characters")
    return value


def a_run_id(value: Any) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError("not a run id")
    return value


def optional(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def or_empty(check: Check) -> Check:
    return lambda value: "" if value == "" else check(value)


def a_number(value: Any) -> float:
    if type(value) not in (int, float) or not (math.isfinite(value) and 0 <= value <= MAX_NUMBER):
        raise ValueError("not a number from 0")
    return float(value)


def a_count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise ValueError("not a whole number from 0")
    return value


def a_flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("neither true nor false")
    return value


def a_time(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not text")
    if not _TIME.fullmatch(value):  # any character at all may stand between date and time for Python
        raise ValueError(f"{value[:40]!a} is not a time as RFC 3339 has it")
    parse_time(value)
    return value


def hex_bytes(size: int, value: Any) -> str:
    if not isinstance(value, str) or len(value) != 2 * size or not _HEX.fullmatch(value):
        raise ValueError(f"not {size} bytes in hexadecimal")
    return value


def a_list(check: Check, value: Any, *, longest: int = MAX_LIST) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("not a list")
    if len(value) > longest:
        raise ValueError(f"a list of {len(value)}")
    return [check(each) for each in value]


def an_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def counts(value: Any) -> dict[str, int]:
    return {a_name(key): a_count(part) for key, part in an_object(value).items()}


def a_status(value: Any) -> str:
    """A `Status`, or text that a newer drkit wrote, which to this one is none of them."""
    return _STATUSES.get(value) or a_name(value)


def a_tree(value: Any) -> list[str]:
    """All ids at once: in 10,000 records they are most of what is read."""
    digits = 2 * DIGEST_SIZE
    if not (
        isinstance(value, list) and all(isinstance(each, str) for each in value) and set(map(len, value)) <= {digits}
    ):
        raise ValueError("a tree is not a list of chunk ids")
    if value and not _HEX.fullmatch("".join(value)):
        raise ValueError("a tree is not a list of chunk ids")
    return value


_STATUSES = {str(status): status for status in Status}


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


DECODER = json.JSONDecoder(parse_constant=_no_number)
"""Reads JSON as others do: without NaN and infinities."""
