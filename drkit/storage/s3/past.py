"""A bucket as it was at a moment, read through its versions: what was deleted or shadowed since does not count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import groupby

from drkit.errors import ObjectNotFound, UsageError
from drkit.storage.base import MAX_OBJECT, Data, ObjectInfo, Tampering, validate_key, validate_prefix
from drkit.storage.forwarding import ForwardingStorage
from drkit.storage.s3.bucket import S3Storage
from drkit.storage.s3.listing import Version


class PastStorage(ForwardingStorage):
    """Reads only: whatever would write raises UsageError."""

    def __init__(self, present: S3Storage, moment: datetime) -> None:
        super().__init__(present)
        self.traits = replace(present.traits, locks=False)  # nothing is written that could get one
        self._present = present
        self._moment = moment
        self._known: dict[str, Version] = {}

    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        raise self._read_only()

    def delete(self, key: str) -> None:
        raise self._read_only()

    def renew_locks(self, prefixes: Sequence[str], needed: Callable[[str], bool]) -> int:
        raise self._read_only()

    def holds_locks(self, key: str) -> bool:
        raise self._read_only()

    def try_tampering(self) -> Tampering | None:
        raise self._read_only()

    def _read_only(self) -> UsageError:
        return UsageError(
            f"{self.url} is read as of {self._moment:%Y-%m-%d %H:%M:%S}Z, and the past cannot be changed",
            hint="Run the same without --as-of.",
        )

    def get(self, key: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT) -> bytes:
        return self._present.get_version(key, self._find(key).id, offset, length, limit=limit)

    def stat(self, key: str) -> ObjectInfo:
        return ObjectInfo(key, self._find(key).size)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        validate_prefix(prefix)
        for version in self._then(prefix):
            self._known[version.key] = version
            yield ObjectInfo(version.key, version.size)

    def shadowed_objects(self) -> Iterator[tuple[str, str]]:
        yield from ()  # that happened since

    def _find(self, key: str) -> Version:
        validate_key(key)
        known = self._known.get(key)
        if known is not None:
            return known
        for version in self._then(key):
            if version.key == key:
                self._known[key] = version
                return version
        raise ObjectNotFound(f"no object {key} in {self.url} as of {self._moment:%Y-%m-%d %H:%M:%S}Z")

    def _then(self, prefix: str) -> Iterator[Version]:
        """Yield the versions that were the newest ones at the moment, and not deleted."""
        for _, versions in groupby(self._present.versions(prefix), key=lambda version: version.key):
            then = next((version for version in versions if version.modified <= self._moment), None)
            if then is not None and not then.marker:
                yield then
