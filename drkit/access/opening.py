"""Opening a repository, or the storage that it is in, with the keys that an access names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from drkit.access.access import Access
from drkit.access.identities import AskPassphrase, read_identities, read_secret
from drkit.errors import AccessDenied, UsageError, reason
from drkit.events import LOGGED, Events
from drkit.repository.keys.identity import parse_recipients
from drkit.repository.repository import Repository
from drkit.settings import cache_directory
from drkit.storage import Storage, is_s3, open_storage
from drkit.storage.cached import CachedStorage


def open_access(access: Access, *, create: bool = False, cached: bool = False, events: Events = LOGGED) -> Storage:
    """Open the storage alone, whether or not a repository is in it.

    `cached`: keep copies of small objects of a storage on S3 on this host. Leave it out to see what the storage itself
    holds.
    """
    storage = open_storage(access.url, create=create, s3=access.s3, events=events)
    return (
        CachedStorage(storage, cache_file(access), events)
        if cached and is_s3(access.url) and not access.s3.as_of
        else storage
    )


def cache_file(access: Access, environ: Mapping[str, str] = os.environ) -> Path:
    """Where copies of objects may be kept: see `cache_directory`."""
    name = hashlib.sha256(access.place.encode()).hexdigest()
    return cache_directory(environ) / f"{name[:16]}.sqlite"


def open_repository(
    access: Access, ask: AskPassphrase | None = None, *, cached: bool = True, events: Events = LOGGED
) -> Repository:
    """Open a repository with the identities, or with the meta key alone if no identity is named."""
    storage = open_access(access, cached=cached, events=events)
    if access.identity is not None:
        return Repository.open(storage, read_identities(access.identity, ask, events=events))
    if access.meta_key_file is not None:
        text = read_meta_key(access.meta_key_file)
        return Repository.open_write_only(storage, text, source=str(access.meta_key_file))
    raise UsageError(
        f"no key is named for {access.url}", hint="Set identity_file in the policy, or DRKIT_IDENTITY_FILE."
    )


def read_recipients(path: Path) -> list[str]:
    try:
        return parse_recipients(path.read_text(encoding="utf-8"), source=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"recipients file {path} cannot be read: {_unreadable(error)}",
            hint="Run drkit init, or put the public keys (age1…) of the key holders into it.",
        ) from None


def read_meta_key(path: Path) -> str:
    try:
        return read_secret(path, "meta key").decode()
    except UnicodeDecodeError:
        raise AccessDenied(
            f"meta key file {path} is not text", hint="Write it again with drkit key host-key, where the identity is."
        ) from None


def _unreadable(error: OSError | UnicodeDecodeError) -> str:
    return reason(error) if isinstance(error, OSError) else "it is not text"
