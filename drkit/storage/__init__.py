"""Storages: flat maps from key to bytes, found by URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from drkit.errors import UsageError
from drkit.events import LOGGED, Events
from drkit.storage.base import Attempt, ObjectInfo, Storage, validate_key
from drkit.storage.local.directory import open_directory
from drkit.storage.s3.settings import LOCK_HINT, ObjectLock, S3Settings, parse_s3_url

__all__ = [
    "LOCK_HINT",
    "Attempt",
    "ObjectInfo",
    "ObjectLock",
    "S3Settings",
    "Storage",
    "check_url",
    "is_s3",
    "local_path",
    "open_storage",
    "parse_s3_url",
    "place",
    "validate_key",
]

_HINT = "Give the path of a directory, or a URL like s3://bucket/prefix."


def open_storage(url: str, *, create: bool = False, s3: S3Settings | None = None, events: Events = LOGGED) -> Storage:
    """Open the storage at a directory path, file:// or s3:// URL. Raises RepositoryNotFound where no directory is.

    `create` makes the directory where it is missing; it never makes a bucket, and that one is missing shows at the
    first request. Whether there is a repository inside is not looked at.
    """
    if is_s3(url):
        from drkit.storage.s3.bucket import open_bucket  # slow to load, and not needed for directories
        from drkit.storage.s3.past import PastStorage

        settings = s3 or S3Settings()
        bucket = open_bucket(url, settings, events=events)
        return PastStorage(bucket, settings.as_of) if settings.as_of else bucket
    if s3 is not None and s3.as_of:
        raise UsageError(
            f"{url} is a directory, which keeps no versions: it cannot be read as it was", hint="Leave out --as-of."
        )
    return open_directory(local_path(url), create=create)


def place(url: str, s3: S3Settings | None = None) -> str:
    if is_s3(url):
        bucket, prefix = parse_s3_url(url)
        return f"{(s3.endpoint if s3 else None) or 's3'} {bucket}/{prefix}"
    return str(local_path(url))


def is_s3(url: str) -> bool:
    return url.startswith("s3://")


def check_url(url: str) -> None:
    """Raise UsageError for what is no URL of a storage. Nothing is opened."""
    if is_s3(url):
        parse_s3_url(url)
    else:
        local_path(url)


def local_path(url: str) -> Path:
    """The absolute path that a storage URL names. Raises UsageError for what is no local directory."""
    if not url or "\0" in url:
        raise UsageError(f"{url!a} is not a repository URL", hint=_HINT)
    if "://" not in url:
        scheme, colon, _ = url.split("/")[0].partition(":")
        if colon:  # sftp:user@host:/path, as other tools write
            raise UsageError(f"unknown repository scheme {scheme!a}", hint=_HINT)
        return Path(url).absolute()
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UsageError(f"{url!a} is not a repository URL", hint=_HINT) from None
    if parts.scheme != "file":
        raise UsageError(f"unknown repository scheme {parts.scheme!a}", hint=_HINT)
    if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
        raise UsageError(
            "a file URL needs an absolute path and nothing else", hint="Write it like file:///var/backups/drkit."
        )
    path = unquote(parts.path)
    if "\0" in path:
        raise UsageError("a file URL cannot hold a NUL byte", hint="Write it like file:///var/backups/drkit.")
    return Path(path)
