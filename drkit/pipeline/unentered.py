"""Which excluded paths find neither tells nor enters: there may be what nobody can read, or what never ends.

Patterns decide in gitignore syntax, and find's tests only save the way there: so a pattern becomes a test where both
mean the same, byte for byte. `*` and `?` of find's `-path` match slashes, its `?` and `[` match bytes and not
characters, and a later `!` pattern can bring back what a test would pass over. The other patterns filter what find
tells.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from drkit.pipeline.select import Patterns
from drkit.policy.patterns import stripped

_MOST_BYTES = 96 * 1024
"""Of all tests together: the kernel limits the arguments of a program."""
_DIRECTORY = ["-type", "d"]
_ESCAPED = frozenset(string.punctuation) - frozenset("./_")
"""Wildcards; and BusyBox takes some names for its own words, even where it awaits a pattern."""
_UNFIT = re.compile(r"[\n\0\ud800-\udfff]")
"""What no pattern matches, no argument holds, or no JSON can say."""


def find_tests(patterns: Sequence[str]) -> list[str]:
    """Return the tests of find, joined by -o, for paths that `patterns` exclude; nothing where no pattern gives one."""
    tests: list[str] = []
    size = 0
    for test in _tests(patterns):
        size += sum(len(word.encode()) + 1 for word in test)
        if size > _MOST_BYTES:
            break
        tests += ["-o", *test] if tests else test
    return tests


def _tests(patterns: Sequence[str]) -> Iterator[list[str]]:
    last_include = max((n for n, line in enumerate(patterns) if line.startswith("!")), default=-1)
    compiled = Patterns(patterns) if last_include >= 0 else None  # a thousand of them take a second
    for number, line in enumerate(patterns):
        line = stripped(line)
        body = line.rstrip("/")
        if not body or body[0] in "!#" or "//" in body or _UNFIT.search(body):
            continue
        of_directories = _DIRECTORY if body != line else []
        final = number > last_include
        if "/" not in body.removeprefix("**/"):
            name = _operand(body.removeprefix("**/"), wild=True)
            if name and final:
                yield [*of_directories, "-name", name.told]
            continue
        parent = re.sub(r"/\*\*?$", "", body)
        path = _operand(parent.removeprefix("/"))
        if not path:
            continue
        if parent != body:
            if final:
                yield [*of_directories, "-path", f"./{path.told}/*"]
        elif final:
            yield [*of_directories, "-path", f"./{path.told}"]
        elif compiled and compiled.match_alone(path.literal.encode(), directory=True):
            # The later patterns leave it excluded, maybe only where it is a directory.
            file_too = compiled.match_alone(path.literal.encode(), directory=False)
            yield [*([] if file_too else _DIRECTORY), "-path", f"./{path.told}"]


class _Operand(NamedTuple):
    """What a pattern says literally, and how find is told."""

    literal: str
    told: str


def _operand(pattern: str, *, wild: bool = False) -> _Operand | None:
    """Return None for a pattern that does more than to name a path. `wild`: single asterisks may be in it."""
    literal = told = ""
    for piece in re.findall(r"\\.|\*+|.|\\$", pattern, re.DOTALL):
        if piece in ("?", "[", "\\") or piece.startswith("**") or (piece == "*" and not wild):
            return None
        character = piece.removeprefix("\\") if len(piece) == 2 else piece
        literal += character
        told += "*" if piece == "*" else "\\" + character if character in _ESCAPED else character
    return None if {"", ".", ".."} & set(literal.split("/")) else _Operand(literal, told)
