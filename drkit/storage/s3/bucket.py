"""Objects in an S3 bucket, each written by one conditional PUT.

An answer can be lost after the work was done. So a PUT that meets an object reads it back: our own bytes are
success, anything else is ObjectExists. Bodies of a repository carry nonces, so equal bytes are the same write.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from io import BytesIO
from itertools import groupby
from typing import Any

from drkit.errors import AccessDenied, IntegrityError, ObjectExists, ObjectNotFound, StorageUnavailable
from drkit.events import LOGGED, Events
from drkit.storage.base import (
    MAX_OBJECT,
    Data,
    ObjectInfo,
    Storage,
    StoreInfo,
    Tampering,
    Traits,
    require_size,
    require_storable,
    validate_key,
    validate_prefix,
    validate_range,
)
from drkit.storage.retry import Retrier, RetryPolicy, TransientError
from drkit.storage.s3.client import BucketClient, open_boto
from drkit.storage.s3.listing import Listings, Version
from drkit.storage.s3.locks import Locks
from drkit.storage.s3.settings import LOCK_HINT, S3Settings, parse_s3_url
from drkit.storage.s3.tamper import attack
from drkit.storage.s3.throttle import Throttle, ThrottledBody

PARALLEL_PUTS = 2
PARALLEL_GETS = 4
REQUEST_SIZE = 6 * 1024 * 1024
"""Bytes that one GET of neighbouring chunks asks for at most. With 2 MiB, requests took half the CPU of a restore."""
CONNECTIONS = 2 * (PARALLEL_PUTS + PARALLEL_GETS)
MD5_BELOW = 1 << 20
"""Bytes. A larger PUT goes without MD5, which takes twice the time of the SHA-256 that every PUT is signed with."""
SCRATCH_SECONDS = 4
"""How long the lock of a scratch object holds. The object cannot be removed before that."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)


class S3Storage(Storage):
    """A prefix of a bucket. Threads share one client and its connections."""

    def __init__(
        self,
        boto: Any,
        bucket: str,
        prefix: str,
        settings: S3Settings,
        policy: RetryPolicy,
        events: Events = LOGGED,
    ) -> None:
        self._client = BucketClient(boto, bucket, prefix, settings, policy)
        self._send = self._client.send
        self._prefix = f"{prefix}/" if prefix else ""
        self.url = self._client.url
        self._settings = settings
        self._retrier = Retrier(policy, events)
        self._throttle = Throttle(settings.upload_limit) if settings.upload_limit else None
        self._extras = settings.write_options
        self._listings = Listings(self._send, self._retrier, self._prefix, self.url)
        self._by_version: bool | None = None
        """Whether to delete an object version by version. None: no DELETE has shown it yet."""
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
        """Put a scratch object as others are put, but locked for these seconds only. The lock is not read back."""
        lock = self._settings.lock
        self._put(key, data, self.now() + timedelta(seconds=seconds) if lock else None, lock.mode if lock else "")

    def _put(self, key: str, data: Data, locked_until: datetime | None, mode: str = "") -> None:
        validate_key(key)
        require_storable(self.url, key, data)
        view = memoryview(data)
        view = view.cast("B") if view.nbytes else memoryview(b"")
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
        """Whether the object has these bytes. They are compared piece by piece."""
        try:
            answer = self._send("get_object", "read", key)
        except ObjectNotFound as error:  # deleted since
            raise TransientError(
                StorageUnavailable(f"cannot store {self.url}/{key}: the object there vanished")
            ) from error
        with closing(answer["Body"]) as body:
            if _length(answer) != expected.nbytes:
                return False
            position = 0
            for piece in self._client.pieces(key, body, expected.nbytes):
                if piece != expected[position : position + len(piece)]:
                    return False
                position += len(piece)
        return True

    def get(self, key: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT) -> bytes:
        return self.get_version(key, "", offset, length, limit=limit)

    def get_version(
        self, key: str, version: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT
    ) -> bytes:
        """Like get, of one version, or of the newest if `version` is empty."""
        validate_key(key)
        validate_range(key, offset, length, limit)
        if length == 0:
            return self._nothing(key, offset)
        try:
            return self._retrier.run(f"get {key}", lambda: self._fetch(key, version, offset, length, limit))
        except _TooShortError:
            if length is None:  # from the very end on: no range can ask for nothing
                return self._nothing(key, offset)
            raise

    def _nothing(self, key: str, offset: int) -> bytes:
        if self.stat(key).size < offset:
            raise _too_short(key, offset)
        return b""

    def _fetch(self, key: str, version: str, offset: int, length: int | None, limit: int) -> bytes:
        options = {"VersionId": version} if version else {}
        everything = not offset and length is None
        if not everything:
            options["Range"] = f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))
        try:
            answer = self._send("get_object", "read", key, **options)
        except IntegrityError:
            raise _too_short(key, offset + (length or 0)) from None
        whole = BytesIO()  # gives its buffer away uncopied; joining pieces would take twice the memory
        with closing(answer["Body"]) as body:
            expected = _length(answer) if everything else self._checked_range(key, answer, offset, length)
            require_size(key, expected, limit)
            whole.writelines(self._client.pieces(key, body, expected))
        return whole.getvalue()

    def _checked_range(self, key: str, answer: Any, offset: int, length: int | None) -> int:
        """Return how many bytes the answer holds. Raises unless they are those that were asked for."""
        match = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
        first, last, size = map(int, match.groups()) if match else (-1, -1, -1)
        end = size if length is None else offset + length
        if match and size < end:
            raise _too_short(key, end)
        if not match or first != offset or last != end - 1:
            if answer["ResponseMetadata"]["HTTPStatusCode"] == 206:
                raise self._client.broken("read", key, "the answer does not say which range it holds")
            raise StorageUnavailable(
                f"cannot read {self.url}/{key}: the server answers another range than was asked for",
                hint="Use a server that knows HTTP ranges; drkit doctor shows what this one can do.",
            )
        return end - offset

    def stat(self, key: str) -> ObjectInfo:
        validate_key(key)
        return self._retrier.run(f"stat {key}", lambda: self._look(key))

    def _look(self, key: str) -> ObjectInfo:
        """Find an object by a listing of one key. An answer to HEAD has no body: one that breaks off looks complete,
        and a refusal does not say why."""
        page = self._listings.page(key, {"MaxKeys": 1})
        for entry in page.get("Contents", ()):
            if entry["Key"] == self._prefix + key:
                return ObjectInfo(key, entry["Size"])
        raise ObjectNotFound(f"no object {key} in {self.url}")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        validate_prefix(prefix)
        return self._listings.objects(prefix)

    def versions(self, prefix: str) -> Iterator[Version]:
        """Yield every version and delete marker below a prefix, by key, and those of one key newest first."""
        validate_prefix(prefix)
        return self._listings.versions(prefix)

    def delete(self, key: str) -> None:
        """Remove an object with all its versions, newest first: a version that a lock keeps is then the one to read.

        A DELETE without a version only hides the versions behind a marker, and so would hide a locked object. If these
        credentials may do no more, and the settings ask for no lock, the object counts as deleted.
        """
        validate_key(key)
        if self._locks is None and not (self._by_version or self._hides(key)):
            return
        for version in [version for version in self.versions(key) if version.key == key]:
            with suppress(ObjectNotFound):
                self.ask("delete_object", "delete", key, VersionId=version.id)

    def _hides(self, key: str) -> bool:
        """Delete without a version. Return whether that left versions, which can be deleted one by one."""
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
        """Return settings of the bucket. None: the server has no such settings, or does not show them."""
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
        """Return the server's time: asked for once, then advanced by the monotonic clock."""
        if self._started is None:
            there = self.server_time()
            if there is None:
                raise StorageUnavailable(f"{self.url} does not tell the time, which object locks need", hint=LOCK_HINT)
            self._started = there - timedelta(seconds=time.monotonic())
        return self._started + timedelta(seconds=time.monotonic())

    def ask(self, operation: str, action: str, key: str, **parameters: Any) -> Any:
        """Send one request, and send it again while that may help."""
        return self._retrier.run(f"{operation} {key}", lambda: self._send(operation, action, key, **parameters))


def open_bucket(
    url: str,
    settings: S3Settings,
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 (frozen)
    events: Events = LOGGED,
) -> S3Storage:
    """Open the storage at s3://bucket/prefix. No request is sent; a missing bucket shows at the first one."""
    bucket, prefix = parse_s3_url(url)
    return S3Storage(open_boto(settings, policy, CONNECTIONS), bucket, prefix, settings, policy, events)


def _length(answer: Any) -> int:
    length = answer.get("ContentLength")
    if not isinstance(length, int):
        raise TransientError(
            StorageUnavailable("the S3 server does not tell how long an object is", hint="Run it again.")
        )
    return length


class _TooShortError(IntegrityError):
    """The object ends before the range does."""


def _too_short(key: str, end: int) -> _TooShortError:
    return _TooShortError(f"object {key} is shorter than {end} bytes", object_name=key)
