"""What is particular to S3: what is sent, what is made of listings that cannot be true, which credentials are used."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drkit.errors import AccessDenied, ObjectExists, RepositoryNotFound, StorageUnavailable, UsageError
from drkit.storage.base import MAX_OBJECT
from drkit.storage.probe import probe_storage
from drkit.storage.s3.bucket import S3Storage, open_bucket
from drkit.storage.s3.settings import S3Settings
from tests.support.s3 import IMPATIENT, S3Server, bucket, credentials, unique_bucket


@pytest.fixture
def place(s3_server: S3Server) -> Iterator[str]:
    with credentials(s3_server.access_key, s3_server.secret_key), bucket(s3_server.client()) as name:
        yield f"s3://{name}/prefix"


@pytest.fixture
def storage(s3_server: S3Server, place: str) -> S3Storage:
    return open_bucket(place, S3Settings(endpoint=s3_server.http), IMPATIENT)


def requests_of(storage: S3Storage) -> list[Any]:
    sent: list[Any] = []
    storage._client.boto.meta.events.register("before-send.s3", lambda request, **rest: sent.append(request))
    return sent


@pytest.mark.parametrize("size", [0, 100_000, 33 << 20])
def test_an_object_is_one_conditional_put_signed_with_its_hash(storage: S3Storage, size: int) -> None:
    sent = requests_of(storage)
    body = random.Random(1).randbytes(size)
    storage.put("packs/aa/one", body)
    [request] = sent
    assert request.method == "PUT"
    assert request.headers["If-None-Match"] == b"*"
    assert request.headers["X-Amz-Content-SHA256"].decode() == hashlib.sha256(body).hexdigest()
    md5 = base64.b64encode(hashlib.md5(body).digest())
    assert request.headers.get("Content-MD5") == (md5 if size < 1 << 20 else None)
    assert request.headers["Content-Length"] == str(len(body)).encode()
    assert not any(name.lower().startswith("x-amz-checksum") for name in request.headers)


def test_an_object_too_large_for_one_put_is_refused(storage: S3Storage) -> None:
    sent = requests_of(storage)
    with pytest.raises(StorageUnavailable, match=r"packs/aa/one: .* more than"):
        storage.put("packs/aa/one", memoryview(bytes(MAX_OBJECT + 1)))
    assert sent == []


def test_a_versioned_bucket_is_found_out(storage: S3Storage, s3_server: S3Server) -> None:
    """radosgw ignores the condition there: two puts succeed. A storage that looks first refuses the second."""
    name = storage.url.split("/")[2]
    s3_server.client().put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    found = probe_storage(storage)
    assert (found.create_only, found.nature.versioning) == (False, True)
    storage = storage.single_writer()
    storage.put("config", b"first")
    with pytest.raises(ObjectExists):
        storage.put("config", b"second")
    assert storage.get("config") == b"first"
    storage.delete("config")
    assert list(storage.list("")) == []
    storage.put("config", b"third")


def test_a_plain_bucket_is_safe_for_many(storage: S3Storage) -> None:
    found = probe_storage(storage)
    assert found.unsafe is None
    assert (found.nature.versioning, found.nature.object_lock) == (False, False)
    assert list(storage.list("")) == []


def test_other_objects_in_the_bucket_are_passed_over(storage: S3Storage, s3_server: S3Server) -> None:
    client, name = s3_server.client(), storage.url.split("/")[2]
    for key in (
        "prefix",
        "prefix/",
        "prefix/UPPER",
        "prefix/tmp/x",
        "prefix//x",
        "prefix/b %+ä<&",
        "prefixed/config",
        "other",
    ):
        client.put_object(Bucket=name, Key=key, Body=b"x")
    storage.put("config", b"ours")
    assert [(info.key, info.size) for info in storage.list("")] == [("config", 4)]
    assert [(version.key, version.size, version.latest) for version in storage.versions("")] == [("config", 4, True)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda page: page.pop("IsTruncated"), "does not say whether it is the last"),
        (lambda page: page.update(KeyCount=3), "misses keys"),
        (lambda page: page.update(IsTruncated=True), "names no next one"),
        (lambda page: page["Contents"].reverse(), "out of order"),
        (lambda page: page["Contents"][0].update(Key="elsewhere/x"), "of another prefix"),
        (lambda page: page.update(IsTruncated=True, NextContinuationToken="again"), "out of order"),
    ],
)
def test_a_listing_that_cannot_be_true_is_an_error(storage: S3Storage, change: Any, said: str) -> None:
    storage.put("index/1", b"x")
    storage.put("index/2", b"x")
    pages = 0

    def tamper(parsed: dict[str, Any], **rest: Any) -> None:
        nonlocal pages
        pages += 1
        if pages < 20:
            parsed.update(Contents=[{"Key": f"prefix/index/{number}", "Size": 1} for number in (1, 2)], KeyCount=2)
            change(parsed)

    storage._client.boto.meta.events.register("after-call.s3.ListObjectsV2", tamper)
    storage._client.boto.meta.events.register(
        "provide-client-params.s3.ListObjectsV2",
        lambda params, **rest: {key: value for key, value in params.items() if key != "ContinuationToken"},
    )
    with pytest.raises(StorageUnavailable, match=said):
        list(storage.list("index/"))


def test_a_missing_bucket_is_not_an_empty_one(s3_server: S3Server) -> None:
    with credentials(s3_server.access_key, s3_server.secret_key):
        storage = open_bucket(f"s3://{unique_bucket()}/x", S3Settings(endpoint=s3_server.http), IMPATIENT)
        for call in (
            lambda: list(storage.list("")),
            lambda: storage.get("config"),
            lambda: storage.stat("config"),
            lambda: storage.put("config", b"x"),
            lambda: storage.delete("config"),
        ):
            with pytest.raises(RepositoryNotFound, match="no such bucket"):
                call()


def test_a_credentials_file_is_used_alone(place: str, s3_server: S3Server, tmp_path: Path) -> None:
    file = tmp_path / "s3.ini"
    file.write_text(
        f"[default]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = wrong\n"
        f"[right]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    with credentials("canary", "canary"):
        right = S3Settings(endpoint=s3_server.http, credentials_file=file, profile="right")
        open_bucket(place, right, IMPATIENT).put("config", b"x")
        with pytest.raises(AccessDenied, match="SignatureDoesNotMatch"):
            open_bucket(place, S3Settings(endpoint=s3_server.http, credentials_file=file), IMPATIENT).get("config")
        with pytest.raises(AccessDenied, match="ProfileNotFound"):
            open_bucket(place, S3Settings(credentials_file=file, profile="nobody"), IMPATIENT).get("config")
        with pytest.raises(AccessDenied, match="InvalidAccessKeyId") as caught:
            open_bucket(place, S3Settings(endpoint=s3_server.http), IMPATIENT).get("config")
    assert "canary" not in repr(caught.value) + str(caught.value.hint)


def test_what_is_stored_is_in_no_repr(storage: S3Storage, s3_server: S3Server) -> None:
    shown = repr(storage) + repr(vars(storage)) + repr(storage._settings)
    assert s3_server.secret_key not in shown
    assert s3_server.access_key not in shown


def test_an_endpoint_that_is_none_is_a_usage_error(s3_server: S3Server) -> None:
    with credentials("a", "b"), pytest.raises(UsageError, match="S3 settings"):
        open_bucket("s3://bucket/x", S3Settings(endpoint="not a url"), IMPATIENT)


def test_the_server_tells_the_time(storage: S3Storage) -> None:
    moment = storage.server_time()
    assert moment is not None
    assert moment.tzinfo is not None


def test_a_limited_upload_arrives_whole(place: str, s3_server: S3Server) -> None:
    storage = open_bucket(place, S3Settings(endpoint=s3_server.http, upload_limit=4 << 20), IMPATIENT)
    body = random.Random(1).randbytes(6 << 20)
    storage.put("packs/aa/one", body)
    assert storage.get("packs/aa/one") == body


def test_bytes_that_change_on_the_way_are_not_stored(storage: S3Storage, rng: random.Random) -> None:
    """The server compares what arrives with the hash in the signature; then the same bytes are sent again."""
    body = rng.randbytes(2 << 20)
    sent = 0

    def flip(request: Any, **rest: Any) -> None:
        nonlocal sent
        sent += 1
        if sent <= 2:
            changed = bytearray(body)
            changed[1 << 20] ^= 1
            request.body = bytes(changed)

    storage._client.boto.meta.events.register("before-send.s3.PutObject", flip)
    storage.put("packs/aa/one", body)
    assert sent == 3
    assert storage.get("packs/aa/one") == body
