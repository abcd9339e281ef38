"""Objects in an S3 bucket, each written by one conditional PUT. The only importer of boto3, which retries nothing here.

An answer can be lost after the work was done. So a PUT that meets an object reads it back: our own bytes are
success, anything else is ObjectExists. Bodies of a repository carry nonces, so equal bytes are the same write.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from io import BytesIO
from itertools import groupby
from typing import Any

import boto3.session
import botocore.exceptions as failures
import botocore.session
from botocore.config import Config
from botocore.httpsession import URLLib3SSLError
from botocore.parsers import ResponseParserError
from botocore.response import URLLib3ProtocolError, URLLib3ReadTimeoutError

from drkit.errors import (
    AccessDenied,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    StorageUnavailable,
    UsageError,
)
from drkit.events import LOGGED, Events
from drkit.storage.base import (
    Data,
    ObjectInfo,
    Storage,
    StoreInfo,
    Tampering,
    Traits,
    validate_key,
    validate_prefix,
    validate_range,
)
from drkit.storage.retry import Deadline, Retrier, RetryPolicy, TransientError
from drkit.storage.s3.answers import CREDENTIALS_HINT, explain
from drkit.storage.s3.listing import Listings, Version, take_entries
from drkit.storage.s3.locks import Locks
from drkit.storage.s3.settings import LOCK_HINT, S3Settings, parse_s3_url
from drkit.storage.s3.tamper import attack
from drkit.storage.s3.throttle import Throttle, ThrottledBody
from drkit.storage.urls import named_endpoint

MAX_OBJECT = 65 * 1024 * 1024
"""Bytes of the largest object: a pack stays under 64 MiB. One PUT carries it; there is no multipart upload."""
PARALLEL_PUTS = 2
PARALLEL_GETS = 4
REQUEST_SIZE = 6 * 1024 * 1024
"""Bytes that one GET of neighbouring chunks asks for at most: at 2 MiB, requests took half the CPU of a restore."""
CONNECTIONS = 2 * (PARALLEL_PUTS + PARALLEL_GETS)
_READ = 1 << 18
MD5_BELOW = 1 << 20
"""Bytes from which on only the SHA-256 that a PUT is signed with guards it on its way: MD5 takes twice the time."""
SCRATCH_SECONDS = 4
"""How long the lock of a scratch object holds: it cannot be removed before."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)", re.ASCII)

_CREDENTIALS = (
    failures.NoCredentialsError,
    failures.PartialCredentialsError,
    failures.CredentialRetrievalError,
    failures.TokenRetrievalError,
    failures.ProfileNotFound,
    failures.ConfigParseError,
    failures.ConfigNotFound,
    failures.SSOError,
    failures.InvalidConfigError,
)
_BROKEN = (
    failures.ConnectionError,
    failures.HTTPClientError,
    failures.IncompleteReadError,
    ResponseParserError,
    URLLib3ProtocolError,
    URLLib3ReadTimeoutError,
    URLLib3SSLError,
)


_REASONS = {
    failures.ConnectTimeoutError: "does not accept connections",
    failures.EndpointConnectionError: "cannot be reached",
    failures.ReadTimeoutError: "does not answer",
}


class S3Storage(Storage):
    """A prefix of a bucket. Threads share one client and its connections."""

    def __init__(
        self,
        client: Any,
        bucket: str,
        prefix: str,
        settings: S3Settings,
        policy: RetryPolicy,
        events: Events = LOGGED,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self.endpoint = str(client.meta.endpoint_url)
        self._settings = settings
        self._retrier = Retrier(policy, events)
        self._throttle = Throttle(settings.upload_limit) if settings.upload_limit else None
        self._extras = settings.write_options
        self._listings = Listings(self._send, self._retrier, self._prefix, self.url)
        self._by_version: bool | None = None
        """Whether deleting means deleting versions; None as long as no DELETE has shown it."""
        self._started: datetime | None = None
        self._locks = Locks(self.ask, settings.lock, self.now) if settings.lock else None
        self.traits = Traits(PARALLEL_PUTS, PARALLEL_GETS, REQUEST_SIZE, locks=settings.lock is not None)

    @property
    def retries(self) -> int:
        """How many requests were sent again so far."""
        return self._retrier.retries

    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        self._put(key, data, self._locks.until(key) if self._locks and locked else None)

    def put_for_seconds(self, key: str, data: Data, seconds: float) -> None:
        """Put a scratch object as others are put, its lock but for so long. That it holds is not looked at."""
        lock = self._settings.lock
        self._put(key, data, self.now() + timedelta(seconds=seconds) if lock else None, lock.mode if lock else "")

    def _put(self, key: str, data: Data, locked_until: datetime | None, mode: str = "") -> None:
        validate_key(key)
        view = memoryview(data)
        view = view.cast("B") if view.nbytes else memoryview(b"")
        if view.nbytes > MAX_OBJECT:
            raise StorageUnavailable(
                f"cannot store {self.url}/{key}: {view.nbytes} bytes are more than the {MAX_OBJECT} of one PUT",
                hint="This is a bug in drkit: nothing it stores is that large.",
            )
        options: dict[str, Any] = {**self._extras, "ContentLength": view.nbytes}
        if view.nbytes < MD5_BELOW:
            digest = hashlib.md5(view, usedforsecurity=False).digest()
            options["ContentMD5"] = base64.b64encode(digest).decode()
        if self.traits.create_only:
            options["IfNoneMatch"] = "*"
        if self._locks and locked_until:
            options |= self._locks.options(locked_until, mode)

        def attempt() -> str | None:
            try:
                if not self.traits.create_only:
                    self._require_absent(key)
                answer = self._send("put_object", "store", key, Body=ThrottledBody(view, self._throttle), **options)
            except ObjectExists:
                if not self._holds(key, view):
                    raise
                return None
            version = answer.get("VersionId")
            return str(version) if version else None

        version = self._retrier.run(f"put {key}", attempt)
        if self._locks and locked_until and not mode:
            self._locks.require(key, version, locked_until)

    def _require_absent(self, key: str) -> None:
        try:
            self._look(key)
        except ObjectNotFound:
            return
        raise ObjectExists(f"object {key} exists already in {self.url}")

    def _holds(self, key: str, expected: memoryview) -> bool:
        """Whether the object has these bytes; they are compared piece by piece."""
        try:
            answer = self._send("get_object", "read", key)
        except ObjectNotFound as error:  # deleted since
            raise TransientError(StorageUnavailable(f"cannot store {self.url}/{key}: it comes and goes")) from error
        with closing(answer["Body"]) as body:
            if answer["ContentLength"] != expected.nbytes:
                return False
            position = 0
            for piece in self._pieces(key, body, expected.nbytes):
                if piece != expected[position : position + len(piece)]:
                    return False
                position += len(piece)
        return True

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return self.get_version(key, "", offset, length)

    def get_version(self, key: str, version: str, offset: int = 0, length: int | None = None) -> bytes:
        """Like get, of one version; the newest without an id."""
        validate_key(key)
        validate_range(offset, length)
        if length == 0:
            return self._nothing(key, offset)
        try:
            return self._retrier.run(f"get {key}", lambda: self._fetch(key, version, offset, length))
        except IntegrityError:
            if length is None:  # from the very end: nothing follows, which no range can say
                return self._nothing(key, offset)
            raise

    def _nothing(self, key: str, offset: int) -> bytes:
        if self.stat(key).size < offset:
            raise _too_short(key, offset)
        return b""

    def _fetch(self, key: str, version: str, offset: int, length: int | None) -> bytes:
        options = {"VersionId": version} if version else {}
        if not offset and length is None:
            answer = self._send("get_object", "read", key, **options)
            expected = _length(answer)
        else:
            last = "" if length is None else str(offset + length - 1)
            try:
                answer = self._send("get_object", "read", key, Range=f"bytes={offset}-{last}", **options)
                expected = self._checked_range(key, answer, offset, length)
            except IntegrityError:
                raise _too_short(key, offset + (length or 0)) from None
        whole = BytesIO()  # gives its buffer away uncopied: pieces and their sum would be twice the memory
        with closing(answer["Body"]) as body:
            whole.writelines(self._pieces(key, body, expected))
        return whole.getvalue()

    def _checked_range(self, key: str, answer: Any, offset: int, length: int | None) -> int:
        """The bytes that follow in the answer, which must be those that were asked for."""
        match = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
        first, last, size = map(int, match.groups()) if match else (-1, -1, -1)
        end = size if length is None else offset + length
        if match and size < end:
            answer["Body"].close()
            raise _too_short(key, end)
        if not match or first != offset or last != end - 1:
            answer["Body"].close()
            if answer["ResponseMetadata"]["HTTPStatusCode"] == 206:
                raise self._broken("read", key, "the answer does not say which range it holds")
            raise StorageUnavailable(
                f"cannot read {self.url}/{key}: the server answers another range than was asked for",
                hint="Use a server that knows HTTP ranges; drkit doctor shows what this one can do.",
            )
        return end - offset

    def _pieces(self, key: str, body: Any, size: int) -> Iterator[bytes]:
        """Yield exactly `size` bytes as they come. Raises TransientError when they do not, or come too slowly."""
        read = getattr(body._raw_stream, "read1", body._raw_stream.read)
        deadline = Deadline(self._retrier.policy, size)
        left = size
        try:
            while left:
                piece = read(min(left, _READ))
                if not piece:
                    raise self._broken("read", key, f"the answer ended {left} bytes early")
                if deadline.passed:
                    raise self._broken("read", key, "the answer comes too slowly")
                left -= len(piece)
                yield piece
        except _BROKEN as error:
            raise self._broken("read", key, "the connection broke within the answer") from error

    def stat(self, key: str) -> ObjectInfo:
        validate_key(key)
        return self._retrier.run(f"stat {key}", lambda: self._look(key))

    def _look(self, key: str) -> ObjectInfo:
        """Find an object by a listing of one. An answer to HEAD has no body: what breaks off within looks complete, and
        a refusal does not say why."""
        page = self._listings.page(key, {"MaxKeys": 1})
        for entry in page.get("Contents", ()):
            if entry["Key"] == self._prefix + key:
                return ObjectInfo(key, entry["Size"])
        raise ObjectNotFound(f"no object {key} in {self.url}")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        validate_prefix(prefix)
        return self._listings.objects(prefix)

    def versions(self, prefix: str) -> Iterator[Version]:
        """Yield every version and delete marker below a prefix, by key, those of a key newest first."""
        validate_prefix(prefix)
        return self._listings.versions(prefix)

    def delete(self, key: str) -> None:
        """Remove an object with all its versions, newest first: what a lock keeps is then what there is to read.

        A DELETE that names no version only hides them behind a marker: that would hide a locked object. Where these
        credentials may do no more, and no lock is asked for, the object counts as deleted.
        """
        validate_key(key)
        if self._locks is None and not (self._by_version or self._hides(key)):
            return
        for version in [version for version in self.versions(key) if version.key == key]:
            with suppress(ObjectNotFound):
                self.ask("delete_object", "delete", key, VersionId=version.id)

    def _hides(self, key: str) -> bool:
        """Delete without naming a version. Returns whether that left versions, which can be deleted one by one."""
        with suppress(ObjectNotFound):
            marker = self.ask("delete_object", "delete", key)
            if marker.get("DeleteMarker") and self._by_version is None:
                try:
                    self.ask("delete_object", "delete", key, VersionId=marker["VersionId"])
                except AccessDenied:
                    self._by_version = False
                else:
                    self._by_version = True
        return bool(self._by_version)

    def renew_locks(self, prefixes: Sequence[str], needed: Callable[[str], bool]) -> int:
        if self._locks is None:
            return 0
        return sum(self._locks.renew(self.versions(prefix), needed) for prefix in prefixes)

    def holds_locks(self, key: str) -> bool:
        if self._locks is None:
            return False
        until = self.now() + timedelta(seconds=SCRATCH_SECONDS)
        try:
            self._put(key, b"locked", until, "governance")
        except StorageUnavailable:  # the bucket knows no locks
            return False
        try:
            for version in self.versions(key):
                self.ask("delete_object", "delete", key, VersionId=version.id)
        except AccessDenied:
            held = True
        else:
            held = False
        while self.now() <= until + timedelta(seconds=1):
            time.sleep(0.5)
        self.delete(key)
        return held

    def shadowed_objects(self) -> Iterator[tuple[str, str]]:
        versioning = self._asked("get_bucket_versioning")
        if versioning is None or not versioning.get("Status"):
            return
        for key, versions in groupby(self.versions(""), key=lambda version: version.key):
            newest, *older = versions
            if newest.marker and any(not version.marker for version in older):
                yield key, f"hidden by a delete marker since {newest.modified:%Y-%m-%dT%H:%M:%SZ}"
            elif len({(version.size, version.tag) for version in (newest, *older) if not version.marker}) > 1:
                yield key, f"written over at {newest.modified:%Y-%m-%dT%H:%M:%SZ}: older versions have other bytes"

    def try_tampering(self) -> Tampering:
        return attack(self)

    def store_info(self) -> StoreInfo:
        versioning = self._asked("get_bucket_versioning")
        lock = self._asked("get_object_lock_configuration")
        return StoreInfo(
            versioning=None if versioning is None else versioning.get("Status") == "Enabled",
            object_lock=None if lock is None else "ObjectLockConfiguration" in lock,
        )

    def _asked(self, operation: str) -> Any:
        """What the bucket's settings are; None where the server has no such settings, or keeps them to itself."""
        try:
            return self.ask(operation, "read the settings of", "")
        except ObjectNotFound:  # the settings were never made
            return {}
        except (AccessDenied, StorageUnavailable):
            return None

    def server_time(self) -> datetime | None:
        page = self._retrier.run("list", lambda: self._listings.page("", {"MaxKeys": 1}))
        date = page["ResponseMetadata"]["HTTPHeaders"].get("date")
        return parsedate_to_datetime(date) if date else None

    def now(self) -> datetime:
        """The server's time: asked for once, then counted on by the monotonic clock."""
        if self._started is None:
            there = self.server_time()
            if there is None:
                raise StorageUnavailable(f"{self.url} does not tell its time, by which locks end", hint=LOCK_HINT)
            self._started = there - timedelta(seconds=time.monotonic())
        return self._started + timedelta(seconds=time.monotonic())

    def ask(self, operation: str, action: str, key: str, **parameters: Any) -> Any:
        """Send one request, again while that may help."""
        return self._retrier.run(f"{operation} {key}", lambda: self._send(operation, action, key, **parameters))

    def _send(self, operation: str, action: str, key: str, **parameters: Any) -> Any:
        """Send one request, once. Raises TransientError for what may pass, else the error to tell."""
        if key:
            parameters["Key"] = self._prefix + key
        where = f"{self.url}/{key}" if key else self.url
        try:
            return getattr(self._client, operation)(Bucket=self._bucket, **parameters)
        except failures.ClientError as error:
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            code = str(error.response.get("Error", {}).get("Code", ""))
            raise explain(status, code, action, key, self.url, self._settings) from error
        except _CREDENTIALS as error:
            reason = type(error).__name__
            raise AccessDenied(
                f"cannot {action} {where}: no usable credentials ({reason})", hint=CREDENTIALS_HINT
            ) from None
        except failures.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise self._broken(action, key, "the TLS connection broke") from error
            raise StorageUnavailable(
                f"cannot {action} {where}: the certificate of {self.endpoint} does not verify",
                hint="Set repository.ca_bundle, or DRKIT_CA_BUNDLE, to the authority that signed it.",
            ) from None
        except _BROKEN as error:
            reason = next((said for kind, said in _REASONS.items() if isinstance(error, kind)), "drops the connection")
            broken = self._broken(action, key, f"{self.endpoint} {reason}")
            broken.refused = _is_refusal(error)
            raise broken from error
        except failures.BotoCoreError as error:
            raise StorageUnavailable(
                f"cannot {action} {where}: {type(error).__name__}",
                hint="Check the repository's settings in the policy.",
            ) from error

    def _broken(self, action: str, key: str, reason: str) -> TransientError:
        where = f"{self.url}/{key}" if key else self.url
        hint = "Check repository.endpoint and the network, then run it again."
        return TransientError(StorageUnavailable(f"cannot {action} {where}: {reason}", hint=hint))


def open_bucket(
    url: str,
    settings: S3Settings,
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 (frozen)
    events: Events = LOGGED,
) -> S3Storage:
    """Open the storage at s3://bucket/prefix. No request is sent; a missing bucket shows at the first one."""
    bucket, prefix = parse_s3_url(url)
    return S3Storage(_client(settings, policy), bucket, prefix, settings, policy, events)


def _client(settings: S3Settings, policy: RetryPolicy) -> Any:
    session = botocore.session.Session()
    if settings.credentials_file is not None:
        if not os.access(settings.credentials_file, os.R_OK):
            raise AccessDenied(f"credentials file {settings.credentials_file} cannot be read", hint=CREDENTIALS_HINT)
        session.set_config_variable("credentials_file", str(settings.credentials_file))
        session.set_config_variable("config_file", os.devnull)
    if settings.profile or settings.credentials_file:
        session.set_config_variable("profile", settings.profile or "default")  # named so, it wins over the environment
    if settings.ca_bundle is not None and not os.access(settings.ca_bundle, os.R_OK):
        raise UsageError(
            f"ca_bundle {settings.ca_bundle} cannot be read", hint="Name a PEM file with the authority's certificate."
        )
    addressing = "path" if settings.addressing == "auto" and named_endpoint(settings) else settings.addressing
    config = Config(
        signature_version="s3v4",
        # Every PUT is signed with the SHA-256 of its bytes: the signature is void where they arrive as others.
        s3={"addressing_style": addressing, "payload_signing_enabled": True},
        connect_timeout=policy.connect,
        read_timeout=policy.read,
        max_pool_connections=CONNECTIONS,
        tcp_keepalive=True,
        retries={"total_max_attempts": 1, "mode": "standard"},
        # The newer checksums many servers refuse or ignore.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        client = boto3.session.Session(botocore_session=session).client(
            "s3",
            endpoint_url=settings.endpoint,
            region_name=settings.region or session.get_config_variable("region") or "us-east-1",
            verify=str(settings.ca_bundle) if settings.ca_bundle else None,
            config=config,
        )
        client.meta.events.register("before-send.s3.PutObject", _begin_sending)
        client.meta.events.register_first("before-parse.s3.ListObjectsV2", take_entries)
        client.meta.events.register_first("before-parse.s3.ListObjectVersions", take_entries)
        return client
    except _CREDENTIALS as error:
        raise AccessDenied(f"no usable S3 credentials ({type(error).__name__})", hint=CREDENTIALS_HINT) from None
    except (ValueError, failures.BotoCoreError) as error:
        raise UsageError(
            f"the S3 settings cannot be used: {type(error).__name__}",
            hint="Check endpoint and region: an endpoint is written like https://s3.example.com:9000.",
        ) from error


def _is_refusal(error: BaseException | None) -> bool:
    """Whether a connection failed since nobody listens on that port."""
    while error is not None and not isinstance(error, ConnectionRefusedError):
        error = error.__cause__ or error.__context__
    return error is not None


def _begin_sending(request: Any, **rest: Any) -> None:
    if isinstance(request.body, ThrottledBody):
        request.body.begin()


def _length(answer: Any) -> int:
    length = answer.get("ContentLength")
    if not isinstance(length, int):
        raise TransientError(
            StorageUnavailable("the S3 server does not tell how long an object is", hint="Run it again.")
        )
    return length


def _too_short(key: str, end: int) -> IntegrityError:
    return IntegrityError(f"object {key} is shorter than {end} bytes", object_name=key)
