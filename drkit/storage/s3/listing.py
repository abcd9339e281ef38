"""Listings of a bucket: of the objects in it, and of every version behind them. A page that cannot be true raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from xml.etree import ElementTree

from drkit.errors import StorageUnavailable
from drkit.storage.base import ObjectInfo, is_key
from drkit.storage.retry import Retrier, TransientError


class Version(NamedTuple):
    """One version of an object, or (`marker`) a delete marker, which hides the versions before it."""

    key: str
    id: str
    size: int
    modified: datetime
    marker: bool
    latest: bool
    tag: str
    """Equal for equal bytes, if one request wrote each of them."""


def _text(value: str) -> str:
    if not value:
        raise ValueError("empty")
    return value


def _size(value: str) -> int:
    if not value.isdecimal():
        raise ValueError("not a size")
    return int(value)


def _flag(value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError("neither true nor false")
    return value == "true"


_MARKER: dict[str, Callable[[str], Any]] = {
    "Key": _text,
    "VersionId": _text,
    "IsLatest": _flag,
    "LastModified": datetime.fromisoformat,
}
_ENTRIES: dict[str, tuple[str, dict[str, Callable[[str], Any]]]] = {
    "Contents": ("Contents", {"Key": _text, "Size": _size}),
    "Version": ("Versions", {**_MARKER, "Size": _size, "ETag": str}),
    "DeleteMarker": ("DeleteMarkers", _MARKER),
}
"""The elements of a page that this module needs: botocore's name for their list, and how to read their fields."""


def take_entries(response_dict: Any, customized_response_dict: Any, **rest: Any) -> None:
    """Read the entries of a page before botocore does, which takes ten times as long: most of a listing is that.

    A handler of botocore's event before-parse. A page with an entry that it cannot read is left as it is.
    """
    taken: dict[str, list[dict[str, Any]]] = {}
    others = []
    try:
        page = ElementTree.fromstring(response_dict["body"])
        space = page.tag[: page.tag.find("}") + 1]
        for element in page:
            name = element.tag.removeprefix(space)
            if name not in _ENTRIES:
                others.append(element)
                continue
            plural, fields = _ENTRIES[name]
            entry = {field: read(element.findtext(space + field, "")) for field, read in fields.items()}
            taken.setdefault(plural, []).append(entry)
    except (ElementTree.ParseError, ValueError):
        return
    if taken:
        page[:] = others
        response_dict["body"] = ElementTree.tostring(page)
        customized_response_dict.update(taken)


class Listings:
    """The listings below one prefix of a bucket. `send` sends one request, once."""

    def __init__(self, send: Callable[..., Any], retrier: Retrier, prefix: str, url: str) -> None:
        self._send = send
        self._retrier = retrier
        self._prefix = prefix
        self._url = url

    def page(self, prefix: str, options: Mapping[str, Any]) -> Any:
        """Request one page of the objects, once."""
        page = self._send("list_objects_v2", "list", "", Prefix=self._prefix + prefix, **options)
        # A body that is not a listing (a captive portal, an empty page) parses too, as a page that lacks everything.
        if "IsTruncated" not in page or page.get("KeyCount", 0) != len(page.get("Contents", ())):
            raise TransientError(self._malformed("a page does not say whether it is the last, or misses keys"))
        return page

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        token: dict[str, str] = {}
        last = ""
        while True:
            page = self._retrier.run(f"list {prefix}", lambda: self.page(prefix, token))  # noqa: B023
            for entry in page.get("Contents", ()):
                name = entry["Key"]
                self._require_ours(name, prefix, in_order=name > last)
                last = name
                key = name.removeprefix(self._prefix)
                if is_key(key):
                    yield ObjectInfo(key, entry["Size"])
            if not page["IsTruncated"]:
                return
            following = page.get("NextContinuationToken")
            if not following or following == token.get("ContinuationToken"):
                raise self._malformed("a page that is not the last names no next one")
            token = {"ContinuationToken": following}

    def versions(self, prefix: str) -> Iterator[Version]:
        """Yield every version and delete marker below a prefix, by key, and those of one key newest first."""
        start: dict[str, str] = {}
        last = ""
        while True:
            page = self._retrier.run(f"list {prefix}", lambda: self._version_page(prefix, start))  # noqa: B023
            found = [self._version(entry, marker=False) for entry in page.get("Versions", ())]
            found += [self._version(entry, marker=True) for entry in page.get("DeleteMarkers", ())]
            for version in sorted(found, key=lambda each: (each.key, not each.latest, -each.modified.timestamp())):
                self._require_ours(self._prefix + version.key, prefix, in_order=version.key >= last)
                last = version.key
                if is_key(version.key):
                    yield version
            if not page["IsTruncated"]:
                return
            following = {
                "KeyMarker": page.get("NextKeyMarker") or "",
                "VersionIdMarker": page.get("NextVersionIdMarker") or "",
            }
            if not all(following.values()) or following == start:
                raise self._malformed("a page that is not the last names no next one")
            start = following

    def _version_page(self, prefix: str, start: Mapping[str, str]) -> Any:
        page = self._send("list_object_versions", "list the versions in", "", Prefix=self._prefix + prefix, **start)
        if "IsTruncated" not in page:
            raise TransientError(self._malformed("a page does not say whether it is the last"))
        return page

    def _version(self, entry: Any, *, marker: bool) -> Version:
        return Version(
            entry["Key"].removeprefix(self._prefix),
            entry["VersionId"],
            entry.get("Size", 0),
            entry["LastModified"],
            marker,
            entry["IsLatest"],
            entry.get("ETag", ""),
        )

    def _require_ours(self, name: str, prefix: str, *, in_order: bool) -> None:
        if not name.startswith(self._prefix + prefix) or not in_order:
            raise self._malformed(f"{name[-60:]!a} is out of order or of another prefix")

    def _malformed(self, what: str) -> StorageUnavailable:
        return StorageUnavailable(
            f"cannot list {self._url}: {what}",
            hint="Name the S3 server itself in repository.endpoint, and run it again.",
        )
