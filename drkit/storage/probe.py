"""What a store can really do, tried in the very bucket and prefix, or directory, that a repository will use.

A server that accepts a header may ignore it, and one that refuses a second put may still lose a race. So eight writers
race for one key, several times. Scratch objects lie below `probe/` and are removed.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from drkit.errors import AccessDenied, DrkitError, ObjectExists, StorageUnavailable
from drkit.storage.base import Storage, StoreInfo
from drkit.storage.local.mounts import IN_MEMORY

PROBE_PREFIX = "probe/"
RACERS = 8
ROUNDS = 6


@dataclass(frozen=True)
class Capabilities:
    """What was found. None: it could not be found out, or means nothing here."""

    create_only: bool
    """A second put of other bytes is refused and changes nothing."""
    atomic: bool
    """Of eight racing writers exactly one succeeded, in every round, and its bytes are there."""
    listing: bool
    """A listing shows what was just put, and does not show what was just deleted."""
    ranges: bool
    deletes: bool
    nature: StoreInfo = field(default_factory=StoreInfo)
    notes: tuple[str, ...] = ()
    locks: bool | None = None
    """A locked object could not be deleted; None where the policy asks for no locks."""

    @property
    def unsafe(self) -> str | None:
        """Why two writers at once are not safe here. None: they are safe."""
        if not self.create_only:
            return "a second write replaces the first"
        if not self.atomic:
            return "several of eight racing writers were told that they had created one object"
        if self.nature.locks is False:
            return "file locks do not keep a second process out"
        if self.nature.shared:
            return f"the file system ({self.nature.file_system}) is shared by hosts, which see it differently"
        return None

    @property
    def unusable(self) -> str | None:
        """Why no repository can be kept here at all. None: one can."""
        if self.nature.file_system in IN_MEMORY:
            return f"it is in memory ({self.nature.file_system}), and the next start of the machine takes all backups"
        if not self.listing:
            return "a listing does not show what was just written"
        if not self.ranges:
            return "a part of an object cannot be read"
        if self.locks is False:
            return "a locked object could be deleted, or none could be locked at all"
        return None


def probe_storage(storage: Storage) -> Capabilities:
    """Try everything. Raises what the storage raises if not even a plain put, get or list works.

    A store that does not know conditional writes is tried without them, see Storage.single_writer.
    """
    nature = storage.store_info()
    base = f"{PROBE_PREFIX}{secrets.token_hex(8)}"
    twice = f"{base}/twice"
    body = secrets.token_bytes(64)
    notes: list[str] = []
    made = [twice]
    try:
        usable = _put_in_some_way(storage, twice, body, notes)
        create_only = usable is storage and _refuses_a_second_put(storage, twice, body)
        storage = usable
        atomic = create_only and all(_one_wins(storage, f"{base}/race-{turn}", made) for turn in range(ROUNDS))
        listing = {info.key for info in storage.list(f"{base}/")} == set(made)
        ranges = _reads_ranges(storage, twice)
        locks = storage.holds_locks(f"{base}/locked") if storage.traits.locks else None
    except BaseException:
        with contextlib.suppress(DrkitError):  # report the first failure, not one of the clean-up
            _removed(storage, made, notes)
        raise
    deletes = _removed(storage, made, notes)
    if deletes:
        listing = listing and not list(storage.list(f"{base}/"))
    return Capabilities(create_only, atomic, listing, ranges, deletes, nature, tuple(notes), locks)


def _put_in_some_way(storage: Storage, key: str, body: bytes, notes: list[str]) -> Storage:
    """Put an object, without a condition if it is the condition that fails. Return the storage that can do so."""
    try:
        storage.put(key, body)
    except StorageUnavailable as error:
        if not storage.traits.create_only:
            raise
        without = storage.single_writer()
        without.put(key, body)
        notes.append(f"conditional writes: {error.message}")
        return without
    return storage


def _refuses_a_second_put(storage: Storage, key: str, first: bytes) -> bool:
    try:
        storage.put(key, secrets.token_bytes(64))
    except ObjectExists:
        return storage.get(key) == first
    return False


def _one_wins(storage: Storage, key: str, made: list[str]) -> bool:
    """Whether exactly one of several writers at once creates an object."""
    made.append(key)
    ready = threading.Barrier(RACERS)
    bodies = [secrets.token_bytes(4096) for _ in range(RACERS)]

    def race(body: bytes) -> bytes | None:
        ready.wait()
        try:
            storage.put(key, body)
        except ObjectExists:
            return None
        return body

    with ThreadPoolExecutor(RACERS) as pool:
        winners = [body for body in pool.map(race, bodies) if body is not None]
    return winners == [storage.get(key)]


def _reads_ranges(storage: Storage, key: str) -> bool:
    whole = storage.get(key)
    try:
        return storage.get(key, 10, 20) == whole[10:30] and storage.get(key, 50) == whole[50:]
    except DrkitError:
        return False


def _removed(storage: Storage, made: list[str], notes: list[str]) -> bool:
    try:
        for key in made:
            storage.delete(key)
    except AccessDenied as error:
        notes.append(f"{len(made)} scratch objects below {PROBE_PREFIX} stay: {error.message}")
        return False
    return True
