"""The policy as a whole: its sections, the problems in them and between them, and its JSON Schema.

This module knows nothing of YAML, files or lines. To add a section, write a module beside this one that declares its
keys, and add the section to `Policy`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from pydantic import Field, PrivateAttr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from drkit.policy.helper import HelperSettings
from drkit.policy.place import Mirror, RepositoryPlace
from drkit.policy.problem import Key, Problem, describe
from drkit.policy.protect import Protect
from drkit.policy.retention import Retention
from drkit.policy.section import Section
from drkit.policy.values import Unexpected, Value, matching


def _version(value: object) -> int:
    if type(value) is not int or value != 1:  # True equals 1
        raise Unexpected("the number 1")
    return value


Version = Annotated[int, Value(_version, {"type": "integer", "const": 1})]
Name = Annotated[
    str,
    matching(
        r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?",
        "a name of at most 63 lower-case letters, digits, '.', '_' and '-'",
    ),
]
Host = Annotated[
    str,
    matching(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", "a host name of letters, digits, '.', '_' and '-'"),
]


class Policy(Section):
    """What to protect, where to store it and how long to keep it."""

    version: Version = Field(description="the version of the policy format, 1")
    name: Name = Field(description="the name of this policy; snapshots carry it")
    host: Host | None = Field(default=None, description="the name of this host in snapshots; the machine-id by default")
    repository: RepositoryPlace = Field(description="where backups are stored")
    mirror: Mirror | None = Field(default=None, description="where every backup is copied to; the same keys open it")
    protect: Protect = Field(description="what to back up")
    retention: Retention | None = Field(default=None, description="which snapshots to keep; all by default")
    helper: HelperSettings = Field(default=HelperSettings(), description="the container that reads and writes volumes")

    _text: str = PrivateAttr("")
    _path: Path = PrivateAttr(Path())

    @property
    def text(self) -> str:
        """The YAML that this policy was loaded from, as every snapshot stores it."""
        return self._text

    @property
    def path(self) -> Path:
        return self._path

    @classmethod
    def problems(cls, given: Mapping[str, Any], where: Key) -> Iterator[Problem]:
        for key, field in cls.model_fields.items():
            for section in _sections(field.annotation):
                if isinstance(given.get(key), Mapping):
                    yield from section.problems(given[key], (*where, key))
        repository, mirror = given.get("repository"), given.get("mirror")
        if isinstance(repository, Mapping) and isinstance(mirror, Mapping) and isinstance(mirror.get("url"), str):
            url = str(mirror["url"])
            same_url = url.rstrip("/") == str(repository.get("url", "")).rstrip("/")
            same_server = mirror.get("endpoint") == repository.get("endpoint")
            if same_url and (same_server or not url.startswith("s3://")):  # else the bucket is another provider's
                what = f"{describe(url)} is the repository itself; expected another place"
                yield Problem((*where, "mirror", "url"), what, (*where, "repository", "url"))


class Checked(NamedTuple):
    """`policy` is None if and only if there are problems."""

    policy: Policy | None
    problems: list[Problem]


def check(document: Mapping[str, Any], *, text: str, path: Path) -> Checked:
    """Turn plain values into a policy, or find every problem in them. `path` is the policy file."""
    problems = list(Policy.problems(document, ()))
    try:
        policy = Policy.model_validate(document, context=path.parent)
    except ValidationError as error:
        problems += [_problem(detail) for detail in error.errors(include_url=False)]
        return Checked(None, problems)
    if problems:
        return Checked(None, problems)
    policy._text = text
    policy._path = path
    return Checked(policy, [])


def json_schema() -> dict[str, Any]:
    """The JSON Schema of policy files, for editors. Only loading checks rules that span several keys."""
    schema = Policy.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "drkit policy"}


def _problem(detail: ErrorDetails) -> Problem:
    where: Key = detail["loc"]
    kind = detail["type"]
    if kind == "missing":
        return Problem(where, f"is missing; expected {_fields(where[:-1])[str(where[-1])].description}")
    if kind == "extra_forbidden":
        return Problem(where, _unknown_key(str(where[-1]), list(_fields(where[:-1]))))
    found = f"found {describe(detail['input'])}"
    context = detail.get("ctx", {})
    match kind, context.get("error"):
        case "value_error", Unexpected() as error:
            return Problem(where, f"found {error.found or describe(detail['input'])}; expected {error.expected}")
        case "model_type" | "model_attributes_type", _:
            return Problem(where, f"{found}; expected a mapping with the keys {', '.join(_fields(where))}")
        case "tuple_type", _:
            return Problem(where, f"{found}; expected a list")
        case "bool_type", _:
            return Problem(where, f"{found}; expected true or false")
    return Problem(where, f"{found}; {detail['msg'][:1].lower()}{detail['msg'][1:]}")


def _unknown_key(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)
    guess = f", did you mean {close[0]}?" if close else ""
    return f"unknown key{guess}; expected one of {', '.join(known)}"


def _fields(where: Key) -> dict[str, FieldInfo]:
    """Return the keys that the mapping at `where` may have."""
    section: type[Section] = Policy
    for key in where:
        if isinstance(key, str):
            section = next(_sections(section.model_fields[key].annotation))
    return section.model_fields


def _sections(annotation: object) -> Iterator[type[Section]]:
    """Yield the sections inside `X`, `X | None` and `tuple[X, ...]`."""
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)
