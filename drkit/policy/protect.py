"""The section `protect`: what to back up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from drkit.policy.patterns import compile_pattern
from drkit.policy.problem import Key, Problem, describe, quote
from drkit.policy.references import parse_reference
from drkit.policy.section import Section
from drkit.policy.values import SOME_TEXT, ImageRef, Unexpected, Value, matched, text

_VOLUME_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}"
_VOLUME_GLOB = r"[a-zA-Z0-9_.*?\[\]!-]{1,255}"


def _volume_name(value: object) -> str:
    expected = "the name of a Docker volume: two or more letters, digits, '_', '.' and '-', the first a letter or digit"
    if isinstance(value, str) and re.search(r"[*?\[]", value):
        raise Unexpected(f"{expected} (write a pattern as 'match')")
    return matched(value, _VOLUME_NAME, expected)


def _volume_glob(value: object) -> str:
    glob = matched(value, _VOLUME_GLOB, "a pattern of volume names such as 'media_*', with *, ? and [...]")
    if re.search(r"\[(?!(?:!.|[^!])[^\]]*\])", glob):
        raise Unexpected("a pattern of volume names such as 'media_*'", f"{quote(glob)}, where a [ is not closed")
    return glob


def _exclude(value: object) -> str:
    """One gitignore pattern. A pattern that would silently exclude nothing is refused."""
    expected = "a pattern in .gitignore syntax such as '*.tmp' or 'cache/**'"
    if not isinstance(value, str) or not value.strip() or re.search(r"[\0\r\n]", value):
        raise Unexpected(expected)
    if value.startswith("#"):
        raise Unexpected(expected, f"{quote(value)}, which is a comment (write \\# for a name that starts with #)")
    if re.fullmatch(r"!?/*\s*", value):
        raise Unexpected(expected)
    if re.search(r"(?<!\\)(\\\\)*\\$", value):
        raise Unexpected(expected, f"{quote(value)}, which ends in the middle of an escape")
    try:
        compile_pattern(value)
    except ValueError as error:
        raise Unexpected(expected, f"{quote(value)}, {error}") from None
    return value


VolumeName = Annotated[str, Value(_volume_name, text(_VOLUME_NAME))]
VolumeGlob = Annotated[str, Value(_volume_glob, text(_VOLUME_GLOB))]
Exclude = Annotated[str, Value(_exclude, SOME_TEXT)]


class VolumeTarget(Section):
    """Volumes to protect: one by name, or all that match a pattern."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["name"]}, {"required": ["match"]}]})

    name: VolumeName | None = Field(default=None, description="the name of one volume")
    match: VolumeGlob | None = Field(default=None, description="a pattern of volume names, with *, ? and [...]")
    exclude: tuple[Exclude, ...] = Field(
        default=(), strict=False, description="files to leave out, in .gitignore syntax from the root of the volume"
    )
    trusted_xattrs: bool = Field(
        default=False, description="keep trusted.* attributes too; the helper then runs with CAP_SYS_ADMIN"
    )

    @classmethod
    def problems(cls, given: Mapping[str, Any], where: Key) -> Iterator[Problem]:
        if (given.get("name") is None) == (given.get("match") is None):
            what = "has no name" if given.get("name") is None else "has both name and match"
            yield Problem(where, f"{what}; expected either name or match")


class ImageTarget(Section):
    """An image to protect."""

    ref: ImageRef = Field(description="the reference of an image, such as postgres:15")


class Protect(Section):
    """What to back up."""

    volumes: tuple[VolumeTarget, ...] = Field(default=(), strict=False, description="volumes to protect")
    images: tuple[ImageTarget, ...] = Field(default=(), strict=False, description="images to protect")

    @classmethod
    def problems(cls, given: Mapping[str, Any], where: Key) -> Iterator[Problem]:
        volumes, images = given.get("volumes", []), given.get("images", [])
        if volumes == [] and images == []:
            yield Problem(where, "protects nothing; expected at least one volume or image")
        seen: dict[tuple[str, str], Key] = {}
        for place, entry in _entries(volumes, (*where, "volumes")):
            yield from VolumeTarget.problems(entry, place)
            for key in ("name", "match"):
                if isinstance(value := entry.get(key), str):
                    yield from _repeated((key, value), (*place, key), seen)
        for place, entry in _entries(images, (*where, "images")):
            if isinstance(ref := entry.get("ref"), str):
                yield from _repeated(("ref", with_default_tag(ref)), (*place, "ref"), seen)


def with_default_tag(ref: str) -> str:
    """Return the full reference, as the engine lists it, so that equal ones compare equal."""
    try:
        return parse_reference(ref).familiar
    except ValueError:  # its own check says so
        return ref


def unusable(protect: Protect, where: Key) -> Iterator[Problem]:
    """Yield what no engine can have, although it fits the grammar. A backup fails these targets, and no other."""
    for index, image in enumerate(protect.images):
        try:
            parse_reference(image.ref)
        except ValueError as error:
            what = f"found {quote(image.ref)}; expected an image reference: {error}"
            yield Problem((*where, "images", index, "ref"), what)


def _entries(given: object, where: Key) -> Iterator[tuple[Key, Mapping[str, Any]]]:
    """Yield the mappings in a list, each with its key."""
    for index, entry in enumerate(given if isinstance(given, list) else []):
        if isinstance(entry, Mapping):
            yield (*where, index), entry


def _repeated(target: tuple[str, str], where: Key, seen: dict[tuple[str, str], Key]) -> Iterator[Problem]:
    if target in seen:
        yield Problem(where, f"{describe(target[1])} is listed twice; expected each target once", seen[target])
    seen.setdefault(target, where)
