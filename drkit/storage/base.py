"""The contract of a storage: a flat map from key to bytes. It knows nothing of repositories, sealing or Docker."""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple, Self

from drkit.errors import IntegrityError, StorageUnavailable, UsageError

Data = bytes | bytearray | memoryview

MAX_OBJECT = 65 * 1024 * 1024
"""Bytes of the largest object that any storage takes or gives back: in S3, one PUT carries it."""

# A storage may keep unfinished writes below this name, so no key may start with it.
RESERVED = "tmp"

MARK = "config"
"""The key of the object that says that a repository is kept here. Elsewhere a storage tidies nothing up."""

_SEGMENT = re.compile(r"[a-z0-9._-]{1,255}")
_PREFIX = re.compile(r"[a-z0-9._/-]*")
_MAX_KEY = 1024  # bytes; the limit of S3


class ObjectInfo(NamedTuple):
    key: str
    size: int


@dataclass(frozen=True)
class Traits:
    """What is known of a storage without asking the store. The traits of an open storage never change."""

    parallel_puts: int = 1
    """How many puts at once make the storage faster. Each put in flight holds its object in memory."""
    parallel_gets: int = 2
    request_size: int = 0
    """Bytes that one get should ask for where the caller can choose. A smaller request costs more than its bytes."""
    locks: bool = False
    """Whether new objects get an object lock, which keeps them from being deleted for a time."""
    create_only: bool = True
    """Whether the store decides which of several writers creates a key. If not, put looks for the key before it writes:
    that is safe for one writer at a time. See `Storage.single_writer`."""


class StoreInfo(NamedTuple):
    """What a store says of itself when asked. None: the store has no such thing, or does not say."""

    file_system: str | None = None
    shared: bool = False
    """Several hosts, or a program, serve this file system: what one host sees of it proves nothing for the others."""
    locks: bool | None = None
    """Whether a file lock (flock) keeps another holder out."""
    versioning: bool | None = None
    object_lock: bool | None = None


@dataclass(frozen=True)
class Attempt:
    """One thing that was tried against a stored object."""

    what: str
    answer: str
    """What the store answered."""
    survived: bool
    """Whether the bytes that had been written could still be read afterwards."""


class Tampering(NamedTuple):
    """What came of trying to destroy scratch objects."""

    attempts: list[Attempt]
    left: list[str]
    """Keys of scratch objects that could not be removed."""


class Storage(ABC):
    """Objects under keys, written once and never changed.

    Every method is safe to call from several threads. Only exceptions of `drkit.errors` leave it. A key must not be the
    directory of another one (`a` beside `a/b`): a directory cannot store both.

    The abstract methods are what every storage does. The others have a default for stores that know no such thing.
    A storage around another one derives from ForwardingStorage, so that none of these defaults hides the inner storage.
    """

    url: str
    """Where this storage is, as a user would write it. It never holds a secret."""

    traits: Traits = Traits()

    @abstractmethod
    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        """Create an object of at most MAX_OBJECT bytes, all or nothing. On return it is durable, and `data` may be
        changed.

        `locked=False` is for an object that will soon be deleted: it gets no object lock, whatever its key.

        Raises ObjectExists where the key is taken. A storage whose answers can be lost takes an object with the very
        same bytes for its own, so bodies that must not be mistaken for one another carry a nonce. After any other error
        the object may exist, but then it is whole: only its durability, or our knowledge of it, is missing.
        """

    @abstractmethod
    def get(self, key: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT) -> bytes:
        """Return `length` bytes from `offset`, or all bytes from there to the end; never fewer.

        Raises ObjectNotFound, and IntegrityError where the object ends before the range does, and where this would be
        more than `limit` bytes. Then nothing is read: whoever can write to the store decides how large an object is,
        and a server what it sends, but never how much memory that takes.
        """

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo:
        """Raises ObjectNotFound."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with `prefix` (any string of key characters), ordered by key bytewise.

        An object that exists during the whole call is in the result. A listing that cannot be completed raises, before
        the iterator ends at the latest: an empty result means that there is no such object.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; no error where there is none. Needs no free space.

        Where the store keeps versions, all of them go. Raises AccessDenied for a locked object, which stays readable.
        """

    def single_writer(self) -> Self:
        """Return this storage for a store that takes one writer at a time: its put looks before it writes.

        It shares everything else with this one, which stays as it is.
        """
        view = copy.copy(self)
        view.traits = replace(self.traits, create_only=False)
        return view

    def fetch_ahead(self, keys: Sequence[str]) -> None:  # noqa: B027 most storages have nothing to do
        """Expect that these listed objects will soon be got whole. A distant storage may get them now, all at once.

        Never raises: an error surfaces in the later get.
        """

    def renew_locks(self, prefixes: Sequence[str], needed: Callable[[str], bool]) -> int:
        """Renew the locks of the needed objects below these prefixes, where less than half of the period is left.

        Returns how many were renewed: 0 where nothing is locked.
        """
        return 0

    def holds_locks(self, key: str) -> bool:
        """Lock a scratch object under this key for some seconds, and try to delete it. Return whether that was refused.

        Only a refusal proves a lock. Returns when the lock has ended and the object is removed.
        """
        return False

    def try_tampering(self) -> Tampering | None:
        """Do to scratch objects what a thief of this host's credentials would do.

        Returns when the scratch objects' locks have ended. None where trying shows nothing, since the store offers no
        protection: whoever may write to a directory can delete all of it.
        """
        return None

    def shadowed_objects(self) -> Iterator[tuple[str, str]]:
        """Yield the keys whose objects were hidden or overwritten in a store that keeps versions, and what was done."""
        yield from ()

    def foreign_files(self) -> Iterator[str]:
        """Yield the paths inside the store whose names are not keys, in any order: no listing shows them."""
        yield from ()

    def permission_problem(self) -> str | None:
        """Say who else on this host could change or remove the objects. None: nobody, as far as that can be seen."""
        return None

    def keep_reserve(self) -> None:  # noqa: B027 most storages have no disk that fills
        """Set space aside, or what is missing of it, so that a prune can write its mark on a full disk.

        Never raises: where there is no room for a reserve, there is none.
        """

    def released_reserve(self) -> AbstractContextManager[None]:
        """Give the reserve's space back while the context lasts, then set it aside again."""
        return nullcontext()

    def store_info(self) -> StoreInfo:
        """Ask the store what it is. May write and remove scratch files of its own."""
        return StoreInfo()

    def server_time(self) -> datetime | None:
        """Return the time of the store's own clock. None where it has no clock of its own."""
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


def validate_range(key: str, offset: int, length: int | None, limit: int) -> None:
    """Raise ValueError for what is not a range, IntegrityError for one of more than `limit` bytes."""
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"negative range: offset {offset}, length {length}")
    require_size(key, length or 0, limit)


def require_size(key: str, size: int, limit: int) -> None:
    """Raise IntegrityError where reading `size` bytes of an object would be more than `limit`."""
    if size > limit:
        raise IntegrityError(
            f"object {key} is damaged: it takes {size} bytes, more than the {limit} that any writer stores there",
            hint="Delete it if somebody planted it; otherwise restore it from a copy of the repository.",
            object_name=key,
        )


def require_storable(url: str, key: str, data: Data) -> None:
    """Raise StorageUnavailable for what `get` would refuse."""
    size = memoryview(data).nbytes
    if size > MAX_OBJECT:
        raise StorageUnavailable(
            f"cannot store {url}/{key}: {size} bytes are more than the {MAX_OBJECT} that an object may have",
            hint="This is a bug in drkit: nothing it stores is that large.",
        )
