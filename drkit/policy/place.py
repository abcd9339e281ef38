"""The sections `repository` and `mirror`: where backups are stored, and which keys encrypt and open them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from drkit.policy.problem import Key, Problem
from drkit.policy.s3 import S3Options, refuse_password
from drkit.policy.section import Section
from drkit.policy.values import (
    SOME_TEXT,
    Command,
    FilePath,
    Unexpected,
    Value,
    file_path,
    literal,
    matched,
    one_of,
    policy_directory,
)


def repository_url(value: object, base: Path) -> str:
    """Return an absolute path for a directory, and a URL unchanged."""
    expected = "a directory such as /var/backups/drkit, or s3://bucket/prefix"
    if not isinstance(value, str) or "://" not in value:
        if isinstance(value, str) and ":" in value.split("/")[0]:  # sftp:user@host:/path, as other tools write
            raise Unexpected(expected)
        return str(file_path(value, base, expected))
    refuse_password(value, expected)
    literal(value, expected)
    return matched(value, r"(file://(localhost)?/|s3://[a-z0-9])[^\s\0?#]*", expected)


RepositoryUrl = Annotated[str, Value(lambda value, info: repository_url(value, policy_directory(info)), SOME_TEXT)]


class _Located(Section):
    url: RepositoryUrl = Field(description="the directory, or s3://bucket/prefix")


class Place(S3Options, _Located):  # in this order, pydantic puts url before the options
    """A directory or a bucket, and how to reach it."""

    @classmethod
    def problems(cls, given: Mapping[str, Any], where: Key) -> Iterator[Problem]:
        yield from super().problems(given, where)
        url = given.get("url")
        if isinstance(url, str) and not url.startswith("s3://"):
            for key in S3Options.model_fields:
                if given.get(key) is not None:
                    yield Problem(
                        (*where, key), "means nothing for a directory; expected a url such as s3://bucket/prefix"
                    )


Compression = Annotated[str, one_of("fast", "default", "best")]


class RepositoryPlace(Place):
    """Where backups are stored, and which keys encrypt and open them."""

    recipients_file: FilePath = Field(description="the file of age recipients that can open the data, one per line")
    identity_file: FilePath | None = Field(default=None, description="the file of the age identity that opens the data")
    identity_command: Command | None = Field(
        default=None,
        strict=False,
        description="a program that prints the identity, and its arguments; instead of identity_file",
    )
    passphrase_file: FilePath | None = Field(
        default=None, description="the file of the passphrase, if identity_file is protected by one"
    )
    passphrase_command: Command | None = Field(
        default=None,
        strict=False,
        description="a program that prints the passphrase, and its arguments; instead of passphrase_file",
    )
    meta_key_file: FilePath | None = Field(
        default=None, description="the file of the meta key; alone, without identity_file, it makes a write-only host"
    )
    compression: Compression = Field(
        default="default",
        description="how hard new data is compressed: fast takes least CPU time, best least storage",
    )

    @classmethod
    def problems(cls, given: Mapping[str, Any], where: Key) -> Iterator[Problem]:
        yield from super().problems(given, where)
        if not any(given.get(key) for key in ("identity_file", "identity_command", "meta_key_file")):
            yield Problem(where, "no key to open the repository with; expected identity_file, or meta_key_file alone")
        for file, command in (("identity_file", "identity_command"), ("passphrase_file", "passphrase_command")):
            if given.get(file) is not None and given.get(command) is not None:
                yield Problem(
                    (*where, command), f"given as well as {file}; expected only one of the two", (*where, file)
                )
        seen: dict[str, str] = {}
        for key in ("recipients_file", "identity_file", "passphrase_file", "meta_key_file"):
            value = given.get(key)
            if not isinstance(value, str) or not value:
                continue
            if value in seen:
                yield Problem((*where, key), f"names the same file as {seen[value]}; expected a file of its own")
            seen.setdefault(value, key)


class Mirror(Place):
    """A second place, which every snapshot is copied to. Create it with drkit init --mirror-of."""
