"""Storages: flat maps from key to bytes, found by URL."""

from __future__ import annotations

from drkit.errors import UsageError
from drkit.events import LOGGED, Events
from drkit.storage.base import Attempt, ObjectInfo, Storage, validate_key
from drkit.storage.local.directory import open_directory
from drkit.storage.s3.settings import LOCK_HINT, ObjectLock, S3Settings, parse_s3_url
from drkit.storage.urls import check_url, is_s3, local_path, place

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


def open_storage(url: str, *, create: bool = False, s3: S3Settings | None = None, events: Events = LOGGED) -> Storage:
    """Open the storage at a directory path, file:// or s3:// URL, whether or not a repository is in it.

    Raises RepositoryNotFound for a missing directory, unless `create` makes it. A bucket is never made, and a missing
    one shows at the first request.
    """
    if is_s3(url):
        # A directory needs no boto3, which takes 0.3 s to load.
        from drkit.storage.s3.bucket import open_bucket
        from drkit.storage.s3.past import PastStorage

        settings = s3 or S3Settings()
        bucket = open_bucket(url, settings, events=events)
        return PastStorage(bucket, settings.as_of) if settings.as_of else bucket
    if s3 is not None and s3.as_of:
        raise UsageError(
            f"{url} is a directory, which keeps no versions: it cannot be read as it was", hint="Leave out --as-of."
        )
    return open_directory(local_path(url), create=create)
