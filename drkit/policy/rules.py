"""Rules that span several keys of a policy.

They read the plain document, not the models, so that a mistake in one key does not hide these; what has the wrong
type is left to the models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drkit.policy.problem import Key, Problem, describe
from drkit.policy.values import with_default_tag

_S3_KEYS = (
    "endpoint",
    "region",
    "addressing",
    "profile",
    "credentials_file",
    "ca_bundle",
    "storage_class",
    "encryption",
    "kms_key",
    "upload_limit",
    "lock",
)
_ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")
_KEY_FILES = ("recipients_file", "identity_file", "passphrase_file", "meta_key_file")
_EITHER = (("identity_file", "identity_command"), ("passphrase_file", "passphrase_command"))


def problems(document: Mapping[str, Any]) -> Iterator[Problem]:
    repository = document.get("repository")
    if isinstance(repository, Mapping):
        yield from _repository(repository)
    mirror = document.get("mirror")
    if isinstance(mirror, Mapping):
        yield from _place(mirror, ("mirror",))
        if isinstance(repository, Mapping) and isinstance(mirror.get("url"), str):
            url = str(mirror["url"])
            if url.rstrip("/") == str(repository.get("url", "")).rstrip("/"):
                what = f"{describe(url)} is the repository itself; expected another place"
                yield Problem(("mirror", "url"), what, ("repository", "url"))
    protect = document.get("protect")
    if isinstance(protect, Mapping):
        yield from _protect(protect)
    retention = document.get("retention")
    if isinstance(retention, Mapping):
        yield from _retention(retention)


def _repository(repository: Mapping[str, Any]) -> Iterator[Problem]:
    where: Key = ("repository",)
    if not any(repository.get(key) for key in ("identity_file", "identity_command", "meta_key_file")):
        yield Problem(where, "no key to open the repository with; expected identity_file, or meta_key_file alone")
    for file, command in _EITHER:
        if repository.get(file) is not None and repository.get(command) is not None:
            yield Problem((*where, command), f"stands beside {file}; expected one of the two", (*where, file))
    yield from _place(repository, where)
    seen: dict[str, str] = {}
    for key in _KEY_FILES:
        value = repository.get(key)
        if not isinstance(value, str) or not value:
            continue
        if value in seen:
            yield Problem((*where, key), f"names the same file as {seen[value]}; expected a file of its own")
        seen.setdefault(value, key)


def _place(place: Mapping[str, Any], where: Key) -> Iterator[Problem]:
    url = place.get("url")
    if isinstance(url, str) and not url.startswith("s3://"):
        for key in _S3_KEYS:
            if place.get(key) is not None:
                yield Problem((*where, key), "means nothing for a directory; expected a url of s3://bucket/prefix")
    if place.get("kms_key") is not None and place.get("encryption") != "kms":
        yield Problem((*where, "kms_key"), "means nothing without encryption: kms; expected both or neither")
    storage_class = place.get("storage_class")
    if storage_class in _ARCHIVES:
        what = f"{describe(storage_class)} is an archive that cannot be read at once; expected a class such as STANDARD"
        yield Problem((*where, "storage_class"), what)


def _protect(protect: Mapping[str, Any]) -> Iterator[Problem]:
    where: Key = ("protect",)
    volumes, images = protect.get("volumes", []), protect.get("images", [])
    if volumes == [] and images == []:
        yield Problem(where, "protects nothing; expected at least one volume or image")
    seen: dict[object, Key] = {}
    for index, entry in enumerate(volumes if isinstance(volumes, list) else []):
        if not isinstance(entry, Mapping):
            continue
        place = (*where, "volumes", index)
        given = [key for key in ("name", "match") if entry.get(key) is not None]
        if len(given) != 1:
            what = "has both name and match" if given else "has no name"
            yield Problem(place, f"{what}; expected either name or match")
        for key in given:
            yield from _repeated((key, entry[key]), (*place, key), seen)
    for index, entry in enumerate(images if isinstance(images, list) else []):
        ref = entry.get("ref") if isinstance(entry, Mapping) else None
        if isinstance(ref, str):
            yield from _repeated(("ref", with_default_tag(ref)), (*where, "images", index, "ref"), seen)


def _repeated(target: tuple[str, object], where: Key, seen: dict[object, Key]) -> Iterator[Problem]:
    _, value = target
    if not isinstance(value, str):
        return
    if target in seen:
        yield Problem(where, f"{describe(value)} stands here twice; expected every target once", seen[target])
    seen.setdefault(target, where)


def _retention(retention: Mapping[str, Any]) -> Iterator[Problem]:
    rules = {key: value for key, value in retention.items() if key.startswith("keep_")}
    if all(value in (0, None) for value in rules.values()):
        yield Problem(("retention",), "keeps nothing; expected at least one keep_ rule, or no retention to keep all")
