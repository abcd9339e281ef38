"""A mirror: another place for copies of a repository's snapshots, with the same id and the same meta key.

Chunks and wrapped keys come into it as they are, unopened, so the meta key is enough. Chunks lie in new packs, whose
names never recur. Wraps keep their names, though: nobody could wrap a key anew without opening it. A prune that slept
could delete a wrap that a copy has brought back since. So no prune of a mirror deletes any data key, and copies go
into mirrors only.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from drkit.errors import IntegrityError, ObjectExists, ObjectNotFound, RepositoryLocked, RepositoryNotFound, UsageError
from drkit.repository.format.snapshot import format_time
from drkit.repository.holders.custody import read_custody
from drkit.repository.keys.labels import LABEL_PREFIX, Holder
from drkit.repository.keys.wraps import ESCROW_PREFIX, META_PREFIX, get_wrap, put_key
from drkit.repository.repository import FORMAT, VERSION, Repository, put_config, read_config, require_no_repository
from drkit.storage.base import Storage


def create_mirror(source: Repository, storage: Storage, *, now: datetime, single_writer: bool) -> list[Holder]:
    """Make an empty mirror, open to whoever opens the source. `config` comes last. Returns who opens it.

    An identity that the source keeps under a passphrase is kept here too. Raises ObjectExists, and leaves it untouched,
    where a repository is already; IntegrityError when nobody is known to open the source.
    """
    require_no_repository(storage)
    if single_writer:
        storage = storage.single_writer()
    wraps = read_custody(source, meta_key_alone=True).wraps
    holders = list(dict.fromkeys(wrap.holder for wrap in wraps if wrap.holder is not None))
    unlabelled = [wrap.key for wrap in wraps if wrap.holder is None]
    if not wraps:
        raise IntegrityError(f"{META_PREFIX} of {source.storage.url} holds no key", object_name=META_PREFIX)
    put_key(storage, source.objects, META_PREFIX, source.id, source.meta.meta_key, holders)
    keys = KeyCopier(source, storage)
    for key in unlabelled:  # whom it is for, only he can tell
        keys.copy_wrap(key)
    keys.copy_escrow()
    fields = {
        "format": FORMAT,
        "version": VERSION,
        "id": source.id.hex(),
        "created": format_time(now),
        "chunkers": source.chunkers,
        "mirror": True,
        **({"writers": "single"} if single_writer else {}),
    }
    put_config(storage, source.meta, fields)
    return holders


def open_mirror(source: Repository, storage: Storage) -> Repository:
    """Open the mirror of a repository with that repository's keys.

    Raises UsageError for the repository of somebody else and for one that takes no copies, IntegrityError for one that
    only says that it is ours.
    """
    cure = f"Make a mirror at another place: drkit init --repository PLACE --mirror-of {source.storage.url}."
    try:
        config = read_config(storage)
    except RepositoryNotFound as error:
        make = f"drkit init --repository {storage.url} --mirror-of {source.storage.url}"
        raise RepositoryNotFound(error.message, hint=f"Make it: {make}.") from None
    if config.repository_id != source.id:
        raise UsageError(
            f"{storage.url} holds the repository {config.repository_id.hex()}, which is no mirror of {source.id.hex()} "
            f"at {source.storage.url}",
            hint=cure,
        )
    try:
        mirror = Repository(storage, config, source.meta.meta_key, source.identities)
    except IntegrityError as error:
        raise IntegrityError(
            f"{storage.url} has the id of {source.storage.url}, but not its meta key, or its config was changed: "
            "nothing is copied there",
            hint=cure,
            object_name=error.object_name,
        ) from None
    if not mirror.is_mirror:
        raise UsageError(f"{storage.url} was not made as a mirror, and takes no copies", hint=cure)
    return mirror


class KeyCopier:
    """Brings wrapped keys and their labels into a mirror, each key once, all that were there when this was made."""

    def __init__(self, source: Repository, storage: Storage) -> None:
        self._source = source.storage
        self._storage = storage
        self._there = {info.key for info in storage.list("keys/")}
        self._wraps: dict[str, list[str]] = defaultdict(list)
        self._labels: dict[str, list[str]] = defaultdict(list)
        for info in source.storage.list("keys/"):
            label = info.key.startswith(LABEL_PREFIX)
            purpose = info.key.split("/")[2 if label else 1]
            (self._labels if label else self._wraps)[purpose].append(info.key)
        self._done: set[str] = set()

    def copy_key(self, key_id: bytes, is_condemned: Callable[[bytes], bool]) -> None:
        """Bring every whole wrap of a data key that the mirror lacks, its labels first.

        Raises IntegrityError when the source has none that is whole, RepositoryLocked for one that a prune is about to
        delete.
        """
        purpose = key_id.hex()
        if purpose in self._done:
            return
        wraps = self._wraps[purpose]
        if any(is_condemned(bytes.fromhex(key.rpartition("/")[2])) for key in wraps):
            raise RepositoryLocked(
                f"a prune of {self._storage.url} is about to delete the data key {purpose}",
                hint="Let it end, or run drkit prune there, then run drkit copy again.",
            )
        self._copy_labels(purpose)
        if not [key for key in wraps if self.copy_wrap(key)]:
            key = f"keys/{purpose}/"
            raise IntegrityError(
                f"{key} of {self._source.url} holds no whole key", hint="Run drkit check.", object_name=key
            )
        self._done.add(purpose)

    def copy_escrow(self) -> None:
        """Bring the identities that are kept under a passphrase."""
        purpose = ESCROW_PREFIX.split("/")[1]
        self._copy_labels(purpose)
        for key in self._wraps[purpose]:
            self.copy_wrap(key)

    def copy_wrap(self, key: str) -> bool:
        """Whether the mirror has this wrap now. One that is damaged, or that was just deleted, is not brought."""
        if key in self._there:
            return True
        try:
            self._put(key, get_wrap(self._source, key))
        except (IntegrityError, ObjectNotFound):
            return False
        return True

    def _copy_labels(self, purpose: str) -> None:
        for key in self._labels[purpose]:
            if key in self._there:
                continue
            try:
                body = self._source.get(key)
            except ObjectNotFound:
                continue  # its recipient has just been removed
            if hashlib.sha256(body).hexdigest() == key.rpartition("/")[2]:  # else check tells
                self._put(key, body)

    def _put(self, key: str, body: bytes) -> None:
        with suppress(ObjectExists):  # another copy, at the same time; its name is the hash of its bytes
            self._storage.put(key, body)
        self._there.add(key)
