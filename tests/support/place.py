"""Opening a storage in tests by its URL: a bucket's server and credentials are in the environment."""

from __future__ import annotations

import os
from functools import cache

from drkit.storage import S3Settings, Storage, is_s3, open_storage
from drkit.storage.retry import RetryPolicy
from drkit.storage.s3.bucket import S3Storage
from drkit.storage.s3.settings import parse_s3_url

NAMES = ("DRKIT_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def open_place(url: str, *, create: bool = False) -> Storage:
    settings = S3Settings(endpoint=os.environ.get("DRKIT_ENDPOINT"))
    first = _first(url.split("/")[2], settings) if is_s3(url) else None
    if isinstance(first, S3Storage):
        return S3Storage(first._client.boto, *parse_s3_url(url), settings, RetryPolicy())
    return open_storage(url, create=create, s3=settings)


@cache
def _first(bucket: str, settings: S3Settings) -> Storage:
    """One whose client all others in the bucket share: to make one takes a third of a second."""
    return open_storage(f"s3://{bucket}", s3=settings)


def environment() -> dict[str, str]:
    """What another process needs to open the same."""
    return {name: os.environ[name] for name in NAMES if name in os.environ}
