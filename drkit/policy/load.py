"""Load a policy file, or list every problem in it with its line. The only module that imports yaml."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from drkit.errors import PolicyError, reason
from drkit.policy.problem import Key, Problem, describe, key_path, quote
from drkit.policy.protect import unusable
from drkit.policy.schema import Policy, check

MAX_BYTES = 1 << 20
_MAX_VALUES = 10_000  # with aliases expanded, so that a few lines cannot become gigabytes
_MAX_DEPTH = 32
_HINT = "See `drkit policy example` for a policy with every key, and `drkit policy schema` for its JSON Schema."


def load_policy(path: Path | str) -> Policy:
    """Raises PolicyError that has a line for each problem: `file:line: key: what is wrong; expected ...`."""
    return parse_policy(_read(Path(path)), Path(path))


def parse_policy(text: str, path: Path) -> Policy:
    """Like load_policy, from the text. Messages name `path`, and relative paths in it start from its directory."""
    document = _parse(text, path)
    if not isinstance(document.value, dict):
        what = f"found {describe(document.value)}; expected a mapping that starts with version: 1"
        raise _error(path, document, [] if document.is_unread(()) else [Problem((), what)])
    policy, problems = check(document.value, text=text, path=path.absolute())
    problems = [problem for problem in problems if not document.is_unread(problem.where)]
    if policy is None or document.problems:
        raise _error(path, document, problems)
    return policy


def refuse_unusable(policy: Policy) -> None:
    """Raise PolicyError, as `load_policy` does, for targets that no engine can have: a backup fails these alone."""
    problems = list(unusable(policy.protect, ("protect",)))
    if problems:
        raise _error(policy.path, _parse(policy.text, policy.path), problems)


class _Located(NamedTuple):
    line: int
    problem: Problem


class _Document(NamedTuple):
    value: object
    lines: Mapping[Key, int]
    problems: list[_Located]
    unread: set[Key]

    def line(self, where: Key) -> int:
        """Return the line of a key, or of the mapping that lacks it."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)

    def is_unread(self, where: Key) -> bool:
        """Whether the YAML could not be read there, so that any other problem there only follows from that."""
        return any(where[:length] in self.unread for length in range(len(where) + 1))


def _error(path: Path, document: _Document, problems: list[Problem]) -> PolicyError:
    located = [*document.problems, *(_Located(document.line(problem.where), problem) for problem in problems)]
    located.sort(key=lambda item: (item.line, key_path(item.problem.where), item.problem.what))
    lines = []
    for line, problem in dict.fromkeys(located):
        where = f"{key_path(problem.where)}: " if problem.where else ""
        first = f" (first on line {document.line(problem.first)})" if problem.first else ""
        lines.append(f"{path}:{line}: {where}{problem.what}{first}")
    return PolicyError("\n".join(lines), hint=_HINT)


def _read(path: Path) -> str:
    data = _read_bytes(path)
    if len(data) > MAX_BYTES:
        raise _unreadable(path, f"larger than {MAX_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(
            f"{path}:{line}: byte {data[error.start]:#04x} is not UTF-8; expected a text file",
            hint="Save the file as UTF-8 text.",
        ) from None


def _read_bytes(path: Path) -> bytes:
    """Read the file, but at most one byte more than the limit."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _unreadable(path, "not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unreadable(path, reason(error)) from None
    except ValueError:  # a NUL byte in the path
        raise _unreadable(path, "not a path") from None


def _unreadable(path: Path, why: str) -> PolicyError:
    shown = str(path).replace("\0", "\\0")
    return PolicyError(
        f"cannot read policy {shown}: {why}",
        hint="Name the policy file with --policy, or start one from `drkit policy example`.",
    )


def _parse(text: str, path: Path) -> _Document:
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        parts = [part.removeprefix("but ") for part in (error.context, error.problem) if part]
        raise _syntax_error(path, mark.line + 1 if mark else 1, ": ".join(parts)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _syntax_error(path, line, f"character U+{ord(text[error.position]):04X} is not allowed") from None
    except (ValueError, OverflowError):
        # PyYAML does not catch these for escapes and version numbers that are out of range.
        raise _syntax_error(path, loader.line + 1, "a number is out of range") from None
    converter = _Converter()
    value = converter.convert(root, ()) if root is not None else None
    return _Document(value, converter.lines, converter.problems, converter.unread)


def _syntax_error(path: Path, line: int, problem: str) -> PolicyError:
    if "'\\t'" in problem:
        problem = "found a tab; expected spaces to indent"
    readable = problem.encode("ascii", "backslashreplace").decode()
    return PolicyError(f"{path}:{line}: not valid YAML: {readable}", hint=_HINT)


class _Loader(yaml.SafeLoader):
    """Composes nodes only, up to a limit of number and depth. Plain scalars mean what they mean in YAML 1.2.

    YAML 1.1 would read `on` and `no` as booleans, `1:30` as ninety and dates as dates. What is a number in both
    versions, but not the same one, such as `010`, is a text here.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (as in the base class)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._values += 1
        self._depth += 1
        if self._values > _MAX_VALUES or self._depth > _MAX_DEPTH:
            what = (
                f"more than {_MAX_VALUES} values" if self._values > _MAX_VALUES else f"deeper than {_MAX_DEPTH} levels"
            )
            raise yaml.composer.ComposerError(None, None, what, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_SURROGATE = re.compile(r"[\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    f"{_TAG}null": re.compile(r"~|null|Null|NULL|", re.ASCII),
    f"{_TAG}bool": re.compile(r"true|True|TRUE|false|False|FALSE", re.ASCII),
    f"{_TAG}int": re.compile(r"[-+]?(0|[1-9][0-9]{0,17})", re.ASCII),
    f"{_TAG}float": re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]{1,3})?|[-+]?\.inf|\.nan", re.ASCII),
}
for _tag, _pattern in _SCALARS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern.pattern})\Z", re.ASCII), None)


class _Converter:
    """Turns nodes into plain values. Notes the line of every key, and a problem for every node that is not plain."""

    def __init__(self) -> None:
        self.lines: dict[Key, int] = {}
        self.problems: list[_Located] = []
        self.unread: set[Key] = set()
        self._values = 0
        self._open: set[int] = set()

    def convert(self, node: yaml.Node, where: Key) -> object:
        self.lines.setdefault(where, _line(node))
        self._values += 1
        if self._values > _MAX_VALUES:
            if self._values == _MAX_VALUES + 1:
                self._refuse(node, where, f"aliases expand to more than {_MAX_VALUES} values; expected fewer")
            self.unread.add(where)
            return None
        if id(node) in self._open:
            self._refuse(node, where, "an alias that contains itself; expected plain YAML")
            return None
        self._open.add(id(node))
        try:
            match node:
                case yaml.ScalarNode():
                    return self._scalar(node, where)
                case yaml.SequenceNode(tag="tag:yaml.org,2002:seq"):
                    return [self.convert(item, (*where, index)) for index, item in enumerate(node.value)]
                case yaml.MappingNode(tag="tag:yaml.org,2002:map"):
                    return self._mapping(node, where)
            self._refuse_tag(node, where)
            return None
        finally:
            self._open.remove(id(node))

    def _mapping(self, node: yaml.MappingNode, where: Key) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            if (
                not isinstance(key_node, yaml.ScalarNode)
                or key_node.tag != f"{_TAG}str"
                or _SURROGATE.search(key_node.value)
            ):
                self._note(key_node, where, "a key that is not text; expected a plain word")
                continue
            place = (*where, key_node.value)
            if key_node.value in mapping:
                self._note(key_node, place, f"given twice, first on line {self.lines[place]}; expected each key once")
                continue
            self.lines[place] = _line(key_node)
            mapping[key_node.value] = self.convert(value_node, place)
        return mapping

    def _scalar(self, node: yaml.ScalarNode, where: Key) -> object:
        text: str = node.value
        if node.tag == f"{_TAG}str":
            if not _SURROGATE.search(text):
                return text
            self._refuse(node, where, "half a surrogate pair; expected text that UTF-8 can hold")
            return None
        pattern = _SCALARS.get(node.tag)
        if pattern is None or not pattern.fullmatch(text):
            self._refuse_tag(node, where)
            return None
        match node.tag.removeprefix(_TAG):
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text)
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))

    def _refuse_tag(self, node: yaml.Node, where: Key) -> None:
        tag = node.tag.replace(_TAG, "!!", 1)
        self._refuse(node, where, f"tag {quote(tag)} is not allowed here; expected plain YAML")

    def _refuse(self, node: yaml.Node, where: Key, what: str) -> None:
        """Note a value that cannot be read at all."""
        self._note(node, where, what)
        self.unread.add(where)

    def _note(self, node: yaml.Node, where: Key, what: str) -> None:
        self.problems.append(_Located(_line(node), Problem(where, what)))


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
