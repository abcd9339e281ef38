"""Buckets for tests: in moto, in this process and as a server, and in the tests' own radosgw."""

from __future__ import annotations

import contextlib
import logging
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.botocore_stubber import BotocoreStubber
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from drkit.storage.retry import RetryPolicy
from drkit.storage.s3.bucket import S3Storage, open_bucket
from drkit.storage.s3.settings import S3Settings

IMPATIENT = RetryPolicy(attempts=6, total=30, first_wait=0.02, longest_wait=0.2, connect=5, read=10)


class S3Server(NamedTuple):
    http: str
    https: str
    ca: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """The credentials, as the AWS chain finds them."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.http,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )


def is_radosgw(headers: Mapping[str, str]) -> bool:
    """Ceph names no server; its request ids look like nobody else's."""
    return bool(re.fullmatch(r"tx[0-9a-f]+-[0-9a-f]+-[0-9a-f]+-default", headers.get("x-amz-request-id", "")))


def talked_to(storage: S3Storage) -> list[Mapping[str, str]]:
    """The headers of every answer that the storage gets from now on."""
    seen: list[Mapping[str, str]] = []
    events = storage._client.boto.meta.events
    events.register("after-call.s3", lambda parsed, **rest: seen.append(parsed["ResponseMetadata"]["HTTPHeaders"]))
    return seen


def unique_bucket() -> str:
    return f"drkit-test-{random.SystemRandom().randrange(2**48):012x}"


@contextlib.contextmanager
def bucket(client: Any, name: str | None = None) -> Iterator[str]:
    """A new bucket, removed with all that is in it."""
    name = name or unique_bucket()
    client.create_bucket(Bucket=name)
    try:
        yield name
    finally:
        while versions := _versions(client, name):
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda each: client.delete_object(Bucket=name, Key=each[0], VersionId=each[1]), versions))
        client.delete_bucket(Bucket=name)


@contextlib.contextmanager
def locked_bucket(client: Any) -> Iterator[str]:
    """A new bucket with object lock. What compliance locks for long stays in the server until that stops."""
    name = unique_bucket()
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    yield name
    for key, version in _versions(client, name):
        with contextlib.suppress(ClientError):
            client.delete_object(Bucket=name, Key=key, VersionId=version, BypassGovernanceRetention=True)


@contextlib.contextmanager
def credentials(access_key: str, secret_key: str) -> Iterator[None]:
    """Where the AWS chain finds them, and nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


def _versions(client: Any, name: str) -> list[tuple[str, str]]:
    page = client.list_object_versions(Bucket=name)
    return [(each["Key"], each["VersionId"]) for kind in ("Versions", "DeleteMarkers") for each in page.get(kind, ())]


class Backend(NamedTuple):
    """A bucket somewhere, and one client that all storages in it share: to make one takes a third of a second."""

    open: Callable[[str], S3Storage]
    check: Callable[[], None]


@contextlib.contextmanager
def backend(settings: S3Settings, client: Any, ours: Callable[[Mapping[str, str]], bool]) -> Iterator[Backend]:
    """A new bucket; `check` asserts that all answers came from the server that `ours` knows by their headers."""
    with bucket(client) as name:
        first = open_bucket(f"s3://{name}/first", settings, IMPATIENT)
        seen = talked_to(first)

        def check() -> None:
            assert seen
            assert all(map(ours, seen))

        yield Backend(lambda prefix: S3Storage(first._client.boto, name, prefix, settings, IMPATIENT), check)
        check()


@contextlib.contextmanager
def radosgw_backend(server: S3Server, *, tls: bool = False) -> Iterator[Backend]:
    settings = S3Settings(
        endpoint=server.https if tls else server.http, region="us-east-1", ca_bundle=Path(server.ca) if tls else None
    )
    with credentials(server.access_key, server.secret_key), backend(settings, server.client(), is_radosgw) as made:
        assert made.open("x")._client.endpoint.startswith("https://127" if tls else "http://127")
        yield made


@contextlib.contextmanager
def moto_backend() -> Iterator[Backend]:
    """Moto in this process: what is stored must be in its own dictionary.

    It looks whether a key is taken and stores, without a lock between: here it gets one request after the other. That
    races are decided is shown by servers.
    """
    answer, one_by_one = BotocoreStubber.__call__, threading.Lock()

    def locked(self: BotocoreStubber, *arguments: Any, **named: Any) -> Any:
        with one_by_one:
            return answer(self, *arguments, **named)

    with mock.patch.object(BotocoreStubber, "__call__", locked), credentials("moto", "moto"), mock_aws():
        client = boto3.client("s3", region_name="us-east-1")

        def ours(headers: Mapping[str, str]) -> bool:
            return headers.get("server", "amazon.com") == "amazon.com" and not is_radosgw(headers)

        with backend(S3Settings(region="us-east-1"), client, ours) as made:
            storage = made.open("proof")
            storage.put("config", b"x")
            assert "proof/config" in s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[storage.url.split("/")[2]].keys
            yield made


@contextlib.contextmanager
def moto_server_backend() -> Iterator[Backend]:
    with credentials("moto", "moto"), moto_server() as endpoint:
        client = boto3.client("s3", region_name="us-east-1", endpoint_url=endpoint)
        with backend(
            S3Settings(endpoint=endpoint), client, lambda headers: headers["server"].startswith("Werkzeug")
        ) as made:
            yield made


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """A server of its own port; the URL."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()
