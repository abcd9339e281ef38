"""The S3 options of a repository or a mirror.

To add an option, declare a key here and a field of the same name and type in `storage/s3/settings.py`. The code between
the two takes the names from here, and a test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from drkit.policy.problem import Key, Problem, describe
from drkit.policy.section import Section
from drkit.policy.values import Duration, FilePath, Size, Unexpected, Value, matched, matching, one_of, text

_ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")


def refuse_password(url: str, expected: str) -> None:
    if re.search(r"://[^/]*@", url):
        raise Unexpected(f"{expected} (credentials come from files or the environment)", "a URL with a user name in it")


def _endpoint(value: object) -> str:
    expected = "the address of an S3-compatible server such as https://s3.example.com:9000"
    if not isinstance(value, str):
        raise Unexpected(expected)
    refuse_password(value, expected)
    return matched(value, r"https?://[A-Za-z0-9.\[\]:-]+/?", expected)


Endpoint = Annotated[str, Value(_endpoint, text("https?://.+"))]
Region = Annotated[str, matching(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "an S3 region such as eu-central-1")]
Addressing = Annotated[str, one_of("auto", "path", "virtual")]
Profile = Annotated[
    str, matching(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}", "the name of a profile in an AWS credentials file")
]
StorageClass = Annotated[str, matching(r"[A-Z][A-Z0-9_]{0,62}", "an S3 storage class such as STANDARD_IA")]
Encryption = Annotated[str, one_of("sse-s3", "kms")]
KmsKey = Annotated[str, matching(r"[A-Za-z0-9][A-Za-z0-9:/_.-]{0,511}", "the id, alias or ARN of a KMS key")]
LockMode = Annotated[str, one_of("governance", "compliance")]


class Lock(Section):
    """Protects what was stored from deletion for a period, even with stolen keys. Needs a bucket with object lock."""

    mode: LockMode = Field(
        description="governance, which keys with s3:BypassGovernanceRetention can lift, or compliance, which none can"
    )
    period: Duration = Field(
        description="how long an object stays locked after it is written; backup and prune renew the lock of what a "
        "snapshot to keep needs"
    )


class S3Options(Section):
    """How to reach a bucket and how to store objects in it."""

    endpoint: Endpoint | None = Field(default=None, description="the address of an S3-compatible server")
    region: Region | None = Field(default=None, description="the S3 region")
    addressing: Addressing = Field(
        default="auto", description="where requests name the bucket: path, virtual (in the host name), or auto"
    )
    profile: Profile | None = Field(default=None, description="the AWS profile whose credentials are used")
    credentials_file: FilePath | None = Field(
        default=None, description="an AWS credentials file; keys in the environment are then ignored"
    )
    ca_bundle: FilePath | None = Field(
        default=None, description="a PEM file with the authority that signed the S3 server's certificate"
    )
    storage_class: StorageClass | None = Field(default=None, description="the S3 storage class of new objects")
    encryption: Encryption | None = Field(
        default=None, description="encryption by the S3 server, in addition to drkit's own: sse-s3 or kms"
    )
    kms_key: KmsKey | None = Field(default=None, description="the KMS key for encryption kms; the account's by default")
    upload_limit: Size | None = Field(default=None, description="bytes per second for all uploads together")
    lock: Lock | None = Field(default=None, description="object lock on what is stored: mode and period")

    @property
    def s3_options(self) -> dict[str, Any]:
        """The options by name, without those that are not set."""
        options = {name: getattr(self, name) for name in S3Options.model_fields}
        return {name: value for name, value in options.items() if value is not None}

    @classmethod
    def problems(cls, given: Mapping[str, Any], where: Key) -> Iterator[Problem]:
        if given.get("kms_key") is not None and given.get("encryption") != "kms":
            yield Problem((*where, "kms_key"), "means nothing without encryption: kms; expected both or neither")
        storage_class = given.get("storage_class")
        if storage_class in _ARCHIVES:
            found = f"{describe(storage_class)} is an archive class, which cannot be read immediately"
            yield Problem((*where, "storage_class"), f"{found}; expected a class such as STANDARD")
