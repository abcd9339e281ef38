"""What a thief of a host's credentials could do to stored objects, tried on scratch objects written as the host writes.

An attempt that the server refuses proves nothing. What counts is that the written version can still be read afterwards,
with its bytes. Scratch objects are locked for seconds, lie where packs do (rights may differ by prefix), and are
removed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, Protocol

from drkit.errors import AccessDenied, DrkitError, IntegrityError, ObjectNotFound
from drkit.storage.base import Attempt, Data, Tampering, Traits
from drkit.storage.s3.listing import Version

PREFIX = "packs/tamper-"
LOCK_SECONDS = 15


class Bucket(Protocol):
    """What this module needs of a storage."""

    url: str
    traits: Traits

    def put_for_seconds(self, key: str, data: Data, seconds: float) -> None: ...

    def get_version(self, key: str, version: str, offset: int = 0, length: int | None = None) -> bytes: ...

    def versions(self, prefix: str) -> Iterator[Version]: ...

    def ask(self, operation: str, action: str, key: str, **parameters: Any) -> Any: ...

    def delete(self, key: str) -> None: ...

    def now(self) -> datetime: ...


def attack(bucket: Bucket) -> Tampering:
    """Try everything. Returns when the scratch objects' locks have ended.

    Raises what the storage raises if not even a write works.
    """
    base = PREFIX + secrets.token_hex(8)
    made: list[str] = []
    try:
        attempts = [
            _attempt(bucket, f"{base}-{number}", what, act, made) for number, (what, act) in enumerate(_attacks(bucket))
        ]
    finally:
        left = _remove(bucket, made)
    return Tampering(attempts, left)


Act = Callable[[str, str], None]


def _attacks(bucket: Bucket) -> Iterator[tuple[str, Act]]:
    def overwrite(key: str, version: str) -> None:
        bucket.ask("put_object", "write over", key, Body=b"written over")

    def delete(key: str, version: str) -> None:
        bucket.ask("delete_object", "delete", key)

    def delete_version(key: str, version: str) -> None:
        bucket.ask("delete_object", "delete", key, VersionId=version)

    def bypass(key: str, version: str) -> None:
        bucket.ask("delete_object", "delete", key, VersionId=version, BypassGovernanceRetention=True)

    def shorten(key: str, version: str) -> None:
        end = bucket.now() + timedelta(seconds=2)
        mode = bucket.ask("head_object", "look at", key, VersionId=version)["ObjectLockMode"]
        retention = {"Mode": mode, "RetainUntilDate": end}
        for more in ({}, {"BypassGovernanceRetention": True}):
            try:
                bucket.ask("put_object_retention", "lock", key, VersionId=version, Retention=retention, **more)
                break
            except AccessDenied:
                if more:
                    raise
        while bucket.now() <= end + timedelta(seconds=1):
            time.sleep(0.2)
        bucket.ask("delete_object", "delete", key, VersionId=version)

    yield "write over it", overwrite
    yield "delete it", delete
    yield "delete its version", delete_version
    if bucket.traits.locks:
        yield "delete its version, bypassing governance", bypass
        yield "shorten its lock, then delete its version", shorten


def _attempt(bucket: Bucket, key: str, what: str, act: Act, made: list[str]) -> Attempt:
    body = secrets.token_bytes(256)
    made.append(key)
    bucket.put_for_seconds(key, body, LOCK_SECONDS)
    [written] = bucket.versions(key)
    try:
        act(key, written.id)
    except DrkitError as error:
        answer = error.message
    else:
        answer = "done"
    try:
        survived = bucket.get_version(key, written.id) == body
    except (ObjectNotFound, IntegrityError):
        survived = False
    return Attempt(what, answer, survived)


def _remove(bucket: Bucket, made: list[str]) -> list[str]:
    if bucket.traits.locks:
        end = bucket.now() + timedelta(seconds=LOCK_SECONDS + 1)
        while bucket.now() <= end:
            time.sleep(0.5)
    left = []
    for key in made:
        try:
            bucket.delete(key)
        except AccessDenied:
            left.append(key)
    return left
