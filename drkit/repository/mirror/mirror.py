"""A mirror: another place for copies of a repository's snapshots, with the same id and the same meta key.

Chunks and wrapped keys are copied as they are, unopened, so the meta key is enough. Chunks lie in new packs, whose
names never recur. Wraps, however, keep their names, since nobody could wrap a key again without opening it. A prune
that slept could delete a wrap that a copy has brought back meanwhile. So no prune of a mirror deletes a data key, and
copies go into mirrors only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from drkit.errors import IntegrityError, ObjectExists, ObjectNotFound, RepositoryLocked, RepositoryNotFound, UsageError
from drkit.repository.format.layout import kind_of
from drkit.repository.format.limits import SEALED
from drkit.repository.format.names import check_content_name
from drkit.repository.format.snapshot import format_time
from drkit.repository.holders.custody import read_custody
from drkit.repository.keys.labels import KIND, Holder
from drkit.repository.keys.wraps import ESCROW_PREFIX, META_PREFIX, get_wrap, put_key
from drkit.repository.repository import FORMAT, VERSION, Repository, put_config, read_config, require_no_repository
from drkit.storage.acknowledged import put_seen
from drkit.storage.base import Storage


def create_mirror(source: Repository, storage: Storage, *, now: datetime, single_writer: bool) -> list[Holder]:
    """Make an empty mirror that opens to everybody who opens the source; returns these holders. `config` comes last.

    An identity that the source keeps under a passphrase is copied too. Raises ObjectExists when a repository is there
    already, which stays as it is, IntegrityError when the source holds no wrap of its meta key, and DrkitError for a
    source that a newer drkit made.
    """
    source.refuse_newer()
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
    for key in unlabelled:  # only whoever opens it can tell whom it is for
        keys.copy_wrap(key)
    keys.copy_escrow()
    fields = {
        "format": FORMAT,
        "version": VERSION,
        "id": source.id.hex(),
        "created": format_time(now),
        "chunkers": source.chunkers,
        **({"key_ids": "derived"} if source.derived_key_ids else {}),
        "mirror": True,
        **({"writers": "single"} if single_writer else {}),
    }
    put_config(storage, source.meta, fields)
    return holders


def open_mirror(source: Repository, storage: Storage) -> Repository:
    """Open the mirror of a repository with that repository's keys.

    Raises UsageError for another repository and for one that takes no copies, IntegrityError for one that only claims
    to be our mirror.
    """
    cure = f"Make a mirror at another place: drkit init --repository PLACE --mirror-of {source.storage.url}."
    try:
        config = read_config(storage)
    except RepositoryNotFound as error:
        make = f"drkit init --repository {storage.url} --mirror-of {source.storage.url}"
        raise RepositoryNotFound(error.message, hint=f"Make it: {make}.") from None
    if config.repository_id != source.id:
        raise UsageError(
            f"{storage.url} holds the repository {config.repository_id.hex()}, not a mirror of {source.id.hex()} "
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
    """Copies wrapped keys and their labels into a mirror, each key once; only those that were there at its start."""

    def __init__(self, source: Repository, storage: Storage) -> None:
        self._source = source.storage
        self._storage = storage
        self._there = {info.key for info in storage.list("keys/")}
        self._wraps: dict[str, list[str]] = defaultdict(list)
        self._labels: dict[str, list[str]] = defaultdict(list)
        for info in source.storage.list("keys/"):
            match kind_of(info.key):
                case "recipients":
                    self._labels[info.key.split("/")[2]].append(info.key)
                case "wrap" | "escrow":
                    self._wraps[info.key.split("/")[1]].append(info.key)
        self._done: set[str] = set()

    def copy_key(self, key_id: bytes, is_condemned: Callable[[bytes], bool]) -> None:
        """Copy every whole wrap of a data key that the mirror lacks, after its labels.

        Raises IntegrityError when the source has no whole wrap, RepositoryLocked when a prune is about to delete one.
        """
        purpose = key_id.hex()
        if purpose in self._done:
            return
        wraps = self._wraps[purpose]
        if any(is_condemned(bytes.fromhex(key.rpartition("/")[2])) for key in wraps):
            raise RepositoryLocked(
                f"a prune of {self._storage.url} is about to delete the data key {purpose}",
                hint="Wait until it has ended, or run drkit prune there, then run drkit copy again.",
            )
        self._copy_labels(purpose)
        if not [key for key in wraps if self.copy_wrap(key)]:
            key = f"keys/{purpose}/"
            raise IntegrityError(
                f"{key} of {self._source.url} holds no whole key", hint="Run drkit check.", object_name=key
            )
        self._done.add(purpose)

    def copy_escrow(self) -> None:
        """Copy the identities that are stored under a passphrase."""
        purpose = ESCROW_PREFIX.split("/")[1]
        self._copy_labels(purpose)
        for key in self._wraps[purpose]:
            self.copy_wrap(key)

    def copy_wrap(self, key: str) -> bool:
        """Copy a wrap unless it is damaged or was just deleted. Returns whether the mirror has it now."""
        if key in self._there:
            return True
        try:
            body = get_wrap(self._source, key)
        except (IntegrityError, ObjectNotFound):
            return False
        self._put(key, body)
        return True

    def _copy_labels(self, purpose: str) -> None:
        for key in self._labels[purpose]:
            if key in self._there:
                continue
            try:
                body = self._source.get(key, limit=SEALED[KIND].stored)
                check_content_name(key, body)
            except (IntegrityError, ObjectNotFound):  # check reports damage; a label goes with its recipient
                continue
            self._put(key, body)

    def _put(self, key: str, body: bytes) -> None:
        with suppress(ObjectExists):  # by another copy at the same time; the name is the hash of the bytes
            put_seen(self._storage, key, body)
        self._there.add(key)
