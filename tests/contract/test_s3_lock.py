"""Buckets that keep versions and locks, on a real server: what is locked stays, whatever a thief of the keys does."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from drkit.errors import AccessDenied, ObjectNotFound, StorageUnavailable, UsageError
from drkit.storage import open_storage
from drkit.storage.s3.bucket import S3Storage, open_bucket
from drkit.storage.s3.settings import ObjectLock, S3Settings
from tests.support.s3 import IMPATIENT, S3Server, credentials, locked_bucket

KEY = "packs/aa/one"


@pytest.fixture
def place(s3_server: S3Server) -> Iterator[str]:
    with credentials(s3_server.access_key, s3_server.secret_key), locked_bucket(s3_server.client()) as name:
        yield f"s3://{name}/prefix"


Open = Callable[..., S3Storage]


@pytest.fixture
def opened(s3_server: S3Server, place: str) -> Open:
    def open_with(seconds: float | None, mode: str = "governance") -> S3Storage:
        lock = ObjectLock(mode, timedelta(seconds=seconds), ("packs/", "config")) if seconds else None
        return open_bucket(place, S3Settings(endpoint=s3_server.http, lock=lock), IMPATIENT)

    return open_with


def retention(s3_server: S3Server, storage: S3Storage, key: str) -> Any:
    bucket, _, prefix = storage.url.removeprefix("s3://").partition("/")
    return s3_server.client().head_object(Bucket=bucket, Key=f"{prefix}/{key}")


def overwrite(s3_server: S3Server, storage: S3Storage, key: str, body: bytes | None) -> None:
    """As somebody does who has stolen the credentials; None hides it behind a marker."""
    bucket, _, prefix = storage.url.removeprefix("s3://").partition("/")
    client = s3_server.client()
    if body is None:
        client.delete_object(Bucket=bucket, Key=f"{prefix}/{key}")
    else:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=body)


@pytest.mark.parametrize("mode", ["governance", "compliance"])
def test_what_is_written_is_locked_until_its_period_ends(opened: Open, s3_server: S3Server, mode: str) -> None:
    storage = opened(4, mode)
    storage.put(KEY, b"locked")
    storage.put("sessions/run/0", b"not locked")
    storage.put("packs/aa/two", b"not locked", locked=False)
    head = retention(s3_server, storage, KEY)
    assert head["ObjectLockMode"] == mode.upper()
    assert "ObjectLockMode" not in retention(s3_server, storage, "sessions/run/0")
    with pytest.raises(AccessDenied):
        storage.delete(KEY)
    assert storage.get(KEY) == b"locked"
    storage.delete("sessions/run/0")
    storage.delete("packs/aa/two")
    assert [version.key for version in storage.versions("")] == [KEY], "not even a marker stays"
    time.sleep(6)
    storage.delete(KEY)
    assert list(storage.versions("")) == []


def test_a_host_without_the_policy_does_not_hide_what_is_locked(opened: Open) -> None:
    opened(5).put(KEY, b"locked")
    other = opened(None)
    with pytest.raises(AccessDenied):
        other.delete(KEY)
    assert other.get(KEY) == b"locked"
    other.put("sessions/x/0", b"1")
    other.delete("sessions/x/0")
    assert [version.key for version in other.versions("")] == [KEY]


def test_locks_are_renewed_when_half_of_them_has_passed(opened: Open, s3_server: S3Server) -> None:
    storage = opened(20)
    storage.put(KEY, b"needed")
    storage.put("packs/bb/two", b"not needed")
    long = opened(60)
    first = retention(s3_server, storage, "packs/bb/two")["ObjectLockRetainUntilDate"]
    assert storage.renew_locks(["packs/"], lambda key: True) == 0, "more than half is left"
    assert long.renew_locks(["packs/"], lambda key: key == KEY) == 1
    assert retention(s3_server, storage, KEY)["ObjectLockRetainUntilDate"] > first + timedelta(seconds=20)
    assert retention(s3_server, storage, "packs/bb/two")["ObjectLockRetainUntilDate"] == first
    assert long.renew_locks(["packs/"], lambda key: key == KEY) == 0


def test_what_lies_under_other_versions_is_renewed_too(opened: Open, s3_server: S3Server) -> None:
    storage = opened(10)
    storage.put(KEY, b"ours")
    overwrite(s3_server, storage, KEY, b"theirs")
    overwrite(s3_server, storage, KEY, None)
    assert opened(60).renew_locks(["packs/"], lambda key: True) == 1
    [ours] = [version for version in storage.versions(KEY) if version.size == 4]
    bucket, _, prefix = storage.url.removeprefix("s3://").partition("/")
    head = s3_server.client().head_object(Bucket=bucket, Key=f"{prefix}/{KEY}", VersionId=ours.id)
    assert head["ObjectLockRetainUntilDate"] > storage.now() + timedelta(seconds=40)


def test_a_server_that_ignores_the_headers_is_found_out(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = opened(60)
    send = storage._send

    def forgetful(operation: str, action: str, key: str, **parameters: Any) -> Any:
        parameters = {name: value for name, value in parameters.items() if not name.startswith("ObjectLock")}
        return send(operation, action, key, **parameters)

    monkeypatch.setattr(storage, "_send", forgetful)
    with pytest.raises(StorageUnavailable, match="is not locked: this bucket does not keep locks"):
        storage.put(KEY, b"x")


def test_the_past_is_read_through_its_versions(
    opened: Open, s3_server: S3Server, place: str, rng: random.Random
) -> None:
    storage = opened(None)
    body = rng.randbytes(100_000)
    storage.put(KEY, body)
    storage.put("packs/aa/two", b"deleted later")
    time.sleep(2.6)
    before = storage.now() - timedelta(seconds=0.5)  # the server tells whole seconds: up to one more is missing
    overwrite(s3_server, storage, KEY, b"theirs")
    overwrite(s3_server, storage, "packs/aa/two", None)
    storage.put("packs/aa/three", b"new")
    assert [info.key for info in storage.list("")] == [KEY, "packs/aa/three"]
    past = open_storage(place, s3=replace(storage._settings, as_of=before))
    assert [(info.key, info.size) for info in past.list("")] == [(KEY, 100_000), ("packs/aa/two", 13)]
    assert past.get(KEY) == body
    assert past.get(KEY, 10, 50) == body[10:60]
    assert past.stat("packs/aa/two").size == 13
    with pytest.raises(ObjectNotFound, match="as of"):
        past.get("packs/aa/three")
    with pytest.raises(UsageError, match="the past cannot be changed"):
        past.delete(KEY)
    shadowed = dict(storage.shadowed_objects())
    assert shadowed.keys() == {KEY, "packs/aa/two"}
    assert shadowed[KEY].startswith("written over at ")
    assert shadowed["packs/aa/two"].startswith("hidden by a delete marker since ")


def test_many_versions_come_page_by_page(opened: Open, s3_server: S3Server) -> None:
    storage = opened(None)
    for number in range(4):
        overwrite(s3_server, storage, "config", b"%d" % number)
        overwrite(s3_server, storage, "packs/aa/one", b"%d" % number)
    pages = storage._send

    def small(operation: str, action: str, key: str, **parameters: Any) -> Any:
        return pages(operation, action, key, **parameters, **({"MaxKeys": 3} if "versions" in operation else {}))

    storage._listings._send = small
    found = [version.key for version in storage.versions("")]
    assert found == ["config"] * 4 + ["packs/aa/one"] * 4
    assert [version.latest for version in storage.versions("")] == [True, False, False, False] * 2
    storage.delete("config")
    assert [info.key for info in storage.list("")] == ["packs/aa/one"]
