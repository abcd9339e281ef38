"""Opening a storage in tests by its URL: a bucket's server and credentials are in the environment."""

from __future__ import annotations

import os

from drkit.storage import S3Settings, Storage, open_storage

NAMES = ("DRKIT_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def open_place(url: str, *, create: bool = False) -> Storage:
    return open_storage(url, create=create, s3=S3Settings(endpoint=os.environ.get("DRKIT_ENDPOINT")))


def environment() -> dict[str, str]:
    """What another process needs to open the same."""
    return {name: os.environ[name] for name in NAMES if name in os.environ}
