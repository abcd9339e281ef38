"""What an S3 storage must be told: its URL and its settings. Plain values: nothing here imports boto3."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from drkit.errors import UsageError

_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", re.ASCII)
_PREFIX_SEGMENT = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
LOCK_HINT = (
    "Create a bucket with object lock enabled, on a server that supports it, or remove repository.lock from the policy."
)


@dataclass(frozen=True)
class ObjectLock:
    """Every new object below `prefixes` is locked against deletion for `period` after it is written."""

    mode: str
    """`governance`, which a special right can lift, or `compliance`, which nobody can lift."""
    period: timedelta
    prefixes: tuple[str, ...]


@dataclass(frozen=True)
class S3Settings:
    """Where and how to reach a bucket. Unset credentials come from the AWS chain; no field holds a secret.

    Every field but `as_of` is an option of the policy with the same name and, but for `lock`, the same type.
    """

    endpoint: str | None = None
    region: str | None = None
    addressing: str = "auto"
    """`path`, `virtual`, or `auto`: path at a named endpoint, virtual at AWS."""
    profile: str | None = None
    credentials_file: Path | None = None
    """An AWS credentials file. With it, keys come neither from the environment nor from ~/.aws."""
    ca_bundle: Path | None = None
    storage_class: str | None = None
    encryption: str | None = None
    """`sse-s3` or `kms`."""
    kms_key: str | None = None
    upload_limit: int | None = None
    """Bytes a second, over all uploads."""
    lock: ObjectLock | None = None
    as_of: datetime | None = None
    """Read the bucket as it was then, from its versions."""

    @property
    def write_options(self) -> dict[str, str]:
        """The parameters of every PUT that these settings ask for."""
        options = {}
        if self.storage_class:
            options["StorageClass"] = self.storage_class
        if self.encryption:
            options["ServerSideEncryption"] = "aws:kms" if self.encryption == "kms" else "AES256"
        if self.kms_key:
            options["SSEKMSKeyId"] = self.kms_key
        return options


def parse_s3_url(url: str) -> tuple[str, str]:
    """Return bucket and prefix. Raises UsageError for what is not the URL of a bucket."""
    match = _URL.fullmatch(url)
    if match is None:
        raise UsageError(f"{url!a} does not name an S3 bucket", hint="Write it like s3://bucket/prefix.")
    prefix = (match[2] or "").rstrip("/")
    segments = prefix.split("/") if prefix else []
    if any(not _PREFIX_SEGMENT.fullmatch(segment) or segment in (".", "..") for segment in segments):
        raise UsageError(
            f"{url!a} has a prefix that is not a path of letters, digits, '.', '_' and '-'",
            hint="Write it like s3://bucket/prefix.",
        )
    return match[1], prefix
