"""How the types of a policy's values are declared, and the types that several sections share.

A type is declared once: what it accepts, as a pattern and in words. Its JSON Schema follows from that:

    Region = Annotated[str, matching(r"[a-z0-9-]+", "an S3 region such as eu-central-1")]

A type that only one section uses is declared in that section's module.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema

from drkit.literal import not_literal
from drkit.policy import durations, sizes
from drkit.policy.problem import is_secret, quote
from drkit.policy.references import PATTERN

_LONGEST = 1024  # a text longer than any pattern allows


class Unexpected(ValueError):
    """A value that does not fit. `found` says what is wrong with it if the value alone does not show that."""

    def __init__(self, expected: str, found: str | None = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.found = found


@dataclass(frozen=True, eq=False)  # typing hashes what is in Annotated
class Value:
    """The part of `Annotated[type, Value(...)]` that tells pydantic what to accept."""

    check: Callable[..., object]
    """Called with what the YAML says and, if it takes two arguments, a ValidationInfo. Raises Unexpected."""
    json_schema: dict[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return BeforeValidator(self.check).__get_pydantic_core_schema__(source, handler)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return self.json_schema.copy()


def matching(pattern: str, expected: str) -> Value:
    """A text that matches the whole pattern; `expected` says in words what that is."""
    return Value(lambda value: matched(value, pattern, expected), text(pattern))


def one_of(*choices: str) -> Value:
    """One of these plain words."""
    return matching("|".join(choices), f"one of {', '.join(choices)}")


def matched(value: object, pattern: str, expected: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST or not re.fullmatch(pattern, value, re.ASCII):
        raise Unexpected(expected)
    return value


def text(pattern: str) -> dict[str, Any]:
    """The JSON Schema of a text that matches the whole pattern."""
    return {"type": "string", "pattern": f"^({pattern})$"}


SOME_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}


def policy_directory(info: ValidationInfo) -> Path:
    """What relative paths are relative to."""
    assert isinstance(info.context, Path)  # see schema.check
    return info.context


def file_path(value: object, base: Path, expected: str = "the path of a file") -> Path:
    if isinstance(value, str) and is_secret(value):
        raise Unexpected(expected, "a secret key itself")
    if not isinstance(value, str) or not value or re.search(r"[\0\r\n]", value):
        raise Unexpected(expected)
    return base / literal(value, expected)


def literal(value: str, expected: str) -> str:
    """Return a path or URL that holds nothing for another program to replace. Raises Unexpected."""
    if (why := not_literal(value)) is not None:
        raise Unexpected(f"{expected}, written in full", f"{quote(value)}, but {why}")
    return value


def _command(value: object) -> tuple[str, ...]:
    """A program, as an absolute path or a name in PATH, and its arguments. No shell reads them."""
    expected = "a list of a program and its arguments such as [pass, show, backup-key]"
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(word, str) and "\0" not in word for word in value)
    ):
        raise Unexpected(expected)
    if any(is_secret(word) for word in value):
        raise Unexpected(expected, "a secret key among the arguments, where every user could see it")
    if not value[0].strip():
        raise Unexpected(expected)
    return tuple(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Unexpected("a whole number, 0 or more")
    return value


def _duration(value: object) -> timedelta:
    try:
        return durations.parse_duration(value if isinstance(value, str) else "")
    except ValueError:
        raise Unexpected(durations.EXPECTED) from None


def _size(value: object) -> int:
    try:
        size = sizes.parse_size(value if isinstance(value, str) else "")
    except ValueError:
        raise Unexpected(sizes.EXPECTED) from None
    if not size:
        raise Unexpected(f"{sizes.EXPECTED}, more than nothing")
    return size


_TIMEZONE = r"[A-Za-z][A-Za-z0-9_+/-]{0,63}"


def _timezone(value: object) -> str:
    expected = "the name of a time zone such as UTC or Europe/Berlin"
    zone = matched(value, _TIMEZONE, expected)
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise Unexpected(f"{expected} that this host knows") from None
    return zone


Command = Annotated[tuple[str, ...], Value(_command, {"type": "array", "minItems": 1, "items": {"type": "string"}})]
Count = Annotated[int, Value(_count, {"type": "integer", "minimum": 0})]
Duration = Annotated[timedelta, Value(_duration, text(durations.PATTERN))]
FilePath = Annotated[Path, Value(lambda value, info: file_path(value, policy_directory(info)), SOME_TEXT)]
ImageRef = Annotated[
    str, matching(PATTERN, "an image reference such as postgres:15 or registry.example.com/shop/api@sha256:...")
]
"""What fits the grammar: one bad reference is not to keep the other targets from being backed up."""
Size = Annotated[int, Value(_size, text(sizes.PATTERN))]
Timezone = Annotated[str, Value(_timezone, text(_TIMEZONE))]
