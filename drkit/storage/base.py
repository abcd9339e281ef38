"""The contract of a storage: a flat map from key to bytes. It knows nothing of repositories, sealing or Docker."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from drkit.errors import UsageError

Data = bytes | bytearray | memoryview

# Storages may keep unfinished writes below this name, so no key may start with it.
RESERVED = "tmp"

_SEGMENT = re.compile(r"[a-z0-9._-]{1,255}")
_PREFIX = re.compile(r"[a-z0-9._/-]*")
_MAX_KEY = 1024  # bytes; the limit of S3


class ObjectInfo(NamedTuple):
    key: str
    size: int


class StoreInfo(NamedTuple):
    """What a store says of itself; None where it has no such thing, or does not say."""

    file_system: str | None = None
    shared: bool = False
    """A file system of several hosts, or of a program: what one host sees of it proves nothing for the others."""
    locks: bool | None = None
    """Whether a file lock keeps another holder out."""
    versioning: bool | None = None
    object_lock: bool | None = None


class Storage(ABC):
    """Objects under keys, written once and never changed.

    Every method is safe to call from several threads. Only exceptions of `drkit.errors` leave it. A key must not be
    the directory of another one (`a` beside `a/b`): a directory cannot store both.
    """

    #: Where this storage is, as a user would write it; never holds a secret.
    url: str

    #: How many puts and gets at once make the storage faster; each put in flight holds its object in memory.
    parallel_puts: int = 1
    parallel_gets: int = 2
    #: Bytes that a get should ask for where it can choose: below, a request costs more than its bytes.
    request_size: int = 0

    #: Whether new objects are locked against deletion for a time.
    locks: bool = False

    #: Set to False for a store that does not decide atomically who creates a key: put then looks before it writes,
    #: which is enough for a single writer only.
    create_only: bool = True

    @abstractmethod
    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        """Create an object, all or nothing; on return it is durable.

        `locked=False` is for an object that will soon be deleted: no object lock is put on it, whatever its key.
        Raises ObjectExists where the key is taken. A storage whose answers can be lost on the way takes an object with
        the very same bytes for its own: bodies that must not be mistaken for one another carry a nonce. After any
        other error the object may exist, but then it is whole: only its durability or our knowledge of it is missing.
        """

    @abstractmethod
    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `offset`, or all that follow it; never fewer.

        Raises ObjectNotFound, and IntegrityError where the object ends before the range does.
        """

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo:
        """Raises ObjectNotFound."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with `prefix` (any string of key characters), ordered by key bytewise.

        An object that exists during the whole call is in the result. Absence is not emptiness: whatever hinders the
        listing raises, at the latest before the iterator ends, so that an empty result means no such object.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; no error where there is none. Needs no free space.

        Where the store keeps versions, all of them go. Raises AccessDenied for what is locked: it stays readable.
        """

    def renew_locks(self, prefixes: Sequence[str], needed: Callable[[str], bool]) -> int:
        """Renew the retention of the objects below these prefixes that are needed, where less than half of it is left.

        Returns how many were renewed: none where nothing is locked.
        """
        return 0

    def holds_locks(self, key: str) -> bool:
        """Lock a scratch object under this key for some seconds, and try to delete it: whether that was refused.

        Only a refusal proves a lock. Takes until the lock has ended, and removes the object.
        """
        return False

    def shadowed_objects(self) -> Iterator[tuple[str, str]]:
        """Yield the keys of objects that a store keeps versions of and that somebody hid or wrote over, and how."""
        yield from ()

    def fetch_ahead(self, keys: Sequence[str]) -> None:  # noqa: B027 most storages have nothing to do
        """Expect these listed objects to be got soon, whole. A storage far away may get them now, all at once.

        Raises nothing: what is wrong with an object is told to who gets it.
        """

    def store_info(self) -> StoreInfo:
        """Ask the store what it is. May write and remove scratch files of its own."""
        return StoreInfo()

    def server_time(self) -> datetime | None:
        """What the store's own clock says, None where it has none of its own."""
        return None


def validate_key(key: str) -> None:
    """Raise UsageError unless the key is `[a-z0-9._-]` segments joined by `/`, none of them empty, `.` or `..`."""
    segments = key.split("/")
    if any(not _SEGMENT.fullmatch(segment) or segment in (".", "..") for segment in segments):
        raise UsageError(f"{key!a} is not a valid object key")
    if segments[0] == RESERVED:
        raise UsageError(f"object key {key} is reserved for unfinished writes")
    if len(key) > _MAX_KEY:
        raise UsageError(f"object key {key[:40]}... is longer than {_MAX_KEY} bytes")


def is_key(name: str) -> bool:
    try:
        validate_key(name)
    except UsageError:
        return False
    return True


def validate_prefix(prefix: str) -> None:
    """Raise UsageError where no valid key could start like this."""
    segments = prefix.split("/")
    if not _PREFIX.fullmatch(prefix) or any(segment in ("", ".", "..") for segment in segments[:-1]):
        raise UsageError(f"{prefix!a} is not a valid prefix of object keys")
    if segments[0] == RESERVED and len(segments) > 1:
        raise UsageError(f"prefix {prefix} is reserved for unfinished writes")


def is_segment(name: str) -> bool:
    """Whether a file or directory of this name can be part of a key."""
    return bool(_SEGMENT.fullmatch(name)) and name not in (".", "..")


def validate_range(offset: int, length: int | None) -> None:
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"negative range: offset {offset}, length {length}")
