"""Image references as the Docker distribution project writes them, and what each one asks for: one full name.

The engine reads a short reference in several ways, among them as the first digits of an image's id. So it is only ever
asked by the full name, which can mean nothing else: `da` asks for `docker.io/library/da:latest`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HOST = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
_REGISTRY = rf"(?:{_HOST}|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?"
_COMPONENT = r"[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}"
_DIGEST = r"sha256:[0-9a-f]{64}"

PATTERN = rf"(?:{_REGISTRY}/)?{_PATH}(?::{_TAG})?(?:@{_DIGEST})?"
"""The grammar. It also fits ids, and names that are too long or look like an id: `parse_reference` tells them apart."""

LONGEST_NAME = 255
"""Characters of a name with its registry, without tag and digest."""

_PARTS = re.compile(rf"(?P<name>(?:{_REGISTRY}/)?{_PATH})(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?", re.ASCII)
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})", re.ASCII)
_HUB = "docker.io"
_HUB_ALIAS = "index.docker.io"
_OFFICIAL = "library"


@dataclass(frozen=True)
class Reference:
    """What a reference asks for: the image with this id, or the one that `name` has under a tag, a digest or both.

    `name` has its registry; it is empty for an id, which is then the `digest`.
    """

    name: str
    tag: str = ""
    digest: str = ""

    @property
    def is_id(self) -> bool:
        return not self.name

    @property
    def full(self) -> str:
        """The whole reference, so that equal ones are equal texts."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}{'@' if self.name and self.digest else ''}{self.digest}"

    @property
    def familiar(self) -> str:
        """As the engine lists it: without Docker Hub's name and `library/`."""
        path = self.full.removeprefix(f"{_HUB}/")
        return path if path.count("/") > 1 else path.removeprefix(f"{_OFFICIAL}/")

    @property
    def by_tag(self) -> Reference | None:
        """What it asks for by its tag alone."""
        return Reference(self.name, self.tag) if self.tag else None

    @property
    def by_digest(self) -> Reference | None:
        """What it asks for by its digest alone."""
        return Reference(self.name, digest=self.digest) if self.digest else None


def parse_reference(text: str) -> Reference:
    """Read a reference. Without tag and digest it asks for the tag `latest`; an id has all of its 64 digits.

    Raises ValueError, saying why, for what no reference can be.
    """
    if found := _ID.fullmatch(text):
        return Reference("", digest=f"sha256:{found[1]}")
    parts = _PARTS.fullmatch(text)
    if parts is None:
        raise ValueError("it does not fit the grammar of references")
    registry, slash, path = parts["name"].partition("/")
    if not slash or not _is_registry(registry):
        registry, path = _HUB, parts["name"]
    registry = _HUB if registry == _HUB_ALIAS else registry
    if registry == _HUB and "/" not in path:
        if path == "sha256":
            raise ValueError("an image id has 64 digits after sha256:")
        path = f"{_OFFICIAL}/{path}"
    name = f"{registry}/{path}"
    if len(name) > LONGEST_NAME:
        raise ValueError(f"its name has {len(name)} characters, and {LONGEST_NAME} are allowed")
    tag = parts["tag"] or ("" if parts["digest"] else "latest")
    return Reference(name, tag, parts["digest"] or "")


def _is_registry(part: str) -> bool:
    return part == "localhost" or bool(re.search(r"[.:A-Z]", part))
