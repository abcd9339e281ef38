"""The index: which pack holds a chunk, and where. Runs only add index objects; all of them together are the index."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from secrets import randbelow
from typing import NamedTuple, TypeVar

from drkit.errors import IntegrityError, ObjectNotFound, StorageUnavailable
from drkit.repository.format.names import check_content_name, content_name
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.packs import ENTRY, Entry, decode_entries, pack_key
from drkit.repository.keys.wraps import data_key_wraps, usable_keys
from drkit.repository.pack_reader import read_directories, stored_packs
from drkit.storage.base import Storage
from drkit.storage.seen import put_seen

INDEX_PREFIX = "index/"
MAX_ENTRIES = 100_000
"""Entries in one index object: 6 MB before compression, so that reading an index takes bounded memory."""
ATTEMPTS = 10
"""How often a reading starts again because a prune replaced what it read."""

_PACK = struct.Struct("<32sII")
_PLACE = struct.Struct("<IIIII")
_NAME = re.compile("[0-9a-f]{64}")
T = TypeVar("T")


class Location(NamedTuple):
    """Where a chunk lies. Offsets and sizes in bytes."""

    pack_id: bytes
    key_id: bytes
    offset: int
    sealed_size: int
    size: int


@dataclass(frozen=True)
class PackListing:
    """One pack as an index object describes it."""

    pack_id: bytes
    size: int
    entries: list[Entry]

    def packed(self) -> PackedListing:
        return PackedListing(self.pack_id, self.size, b"".join(ENTRY.pack(*entry) for entry in self.entries))


class PackedListing(NamedTuple):
    """The same with its entries still packed: 60 bytes a chunk instead of 400."""

    pack_id: bytes
    size: int
    entries: bytes

    def listing(self) -> PackListing:
        return PackListing(self.pack_id, self.size, decode_entries(self.entries, source=pack_key(self.pack_id)))

    @property
    def chunks(self) -> int:
        return len(self.entries) // ENTRY.size


def encode_packs(packs: Iterable[PackedListing]) -> Iterator[bytes]:
    """Yield payloads of index objects, each of at most MAX_ENTRIES chunks (but a pack is never split)."""
    payload, count = bytearray(), 0
    for pack in packs:
        if count and count + pack.chunks > MAX_ENTRIES:
            yield bytes(payload)
            payload, count = bytearray(), 0
        payload += _PACK.pack(pack.pack_id, pack.size, pack.chunks) + pack.entries
        count += pack.chunks
    if payload:
        yield bytes(payload)


def decode_packs(payload: bytes, *, source: str) -> Iterator[PackedListing]:
    """Yield the packs in the payload of an index object. Raises IntegrityError naming `source`, its storage key."""
    position = 0
    while position < len(payload):
        try:
            pack_id, size, count = _PACK.unpack_from(payload, position)
        except struct.error:
            raise IntegrityError(f"{source}: the index object ends within a pack", object_name=source) from None
        position += _PACK.size
        end = position + count * ENTRY.size
        if end > len(payload):
            raise IntegrityError(f"{source}: the index object ends within a pack", object_name=source)
        yield PackedListing(pack_id, size, payload[position:end])
        position = end


def put_index(storage: Storage, sealer: ObjectSealer, packs: Iterable[PackedListing]) -> None:
    """Store index objects that list these packs, and see that they are there; none where there are no packs."""
    for payload in encode_packs(packs):
        body = sealer.seal("index", b"", payload)
        put_seen(storage, INDEX_PREFIX + content_name(body), body)


class IndexBatch:
    """Packs that wait to be listed in an index object: about MAX_ENTRIES chunks at most, which take 6 MB."""

    def __init__(self, storage: Storage, sealer: ObjectSealer) -> None:
        self._storage = storage
        self._sealer = sealer
        self._packs: list[PackedListing] = []
        self._chunks = 0

    def add(self, pack: PackedListing) -> None:
        self._packs.append(pack)
        self._chunks += pack.chunks

    @property
    def full(self) -> bool:
        """Whether it is time to `store`."""
        return self._chunks >= MAX_ENTRIES

    def store(self) -> None:
        """List what was added. On return the index objects are durable."""
        put_index(self._storage, self._sealer, self._packs)
        self._packs.clear()
        self._chunks = 0


def get_index(storage: Storage, sealer: ObjectSealer, key: str) -> list[PackedListing]:
    """Read one index object. Raises IntegrityError when it is damaged, ObjectNotFound."""
    body = storage.get(key)
    check_content_name(key, body)
    return list(decode_packs(sealer.open("index", b"", body, source=key), source=key))


class Index:
    """All chunks of the repository in memory, about 220 bytes each (a chunk stands for about a megabyte of data)."""

    def __init__(self) -> None:
        self._packs: list[bytes] = []
        self._keys: list[bytes] = []
        self._key_numbers: dict[bytes, int] = {}
        self._places: dict[bytes, bytes] = {}
        self.pack_sizes: dict[bytes, int] = {}

    def add(self, pack: PackListing, keys: Container[bytes] | None = None) -> None:
        """Add the chunks of a pack; with `keys`, only those sealed with one of them.

        A chunk that is in several packs (two writers at once) keeps the place that was added first.
        """
        if pack.pack_id in self.pack_sizes:
            return
        number = len(self._packs)
        self._packs.append(pack.pack_id)
        self.pack_sizes[pack.pack_id] = pack.size
        for chunk_id, key_id, offset, sealed_size, size in pack.entries:
            if keys is not None and key_id not in keys:
                continue
            key_number = self._key_numbers.get(key_id)
            if key_number is None:
                key_number = self._key_numbers[key_id] = len(self._keys)
                self._keys.append(key_id)
            self._places.setdefault(chunk_id, _PLACE.pack(number, key_number, offset, sealed_size, size))

    def get(self, chunk_id: bytes) -> Location | None:
        place = self._places.get(chunk_id)
        if place is None:
            return None
        number, key_number, offset, sealed_size, size = _PLACE.unpack(place)
        return Location(self._packs[number], self._keys[key_number], offset, sealed_size, size)

    def __contains__(self, chunk_id: bytes) -> bool:
        return chunk_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def samples(self) -> dict[bytes, bytes]:
        """One chunk under each key id, chosen at random: key id -> chunk id."""
        seen = [0] * len(self._keys)
        chosen: dict[bytes, bytes] = {}
        for chunk_id, place in self._places.items():
            number = _PLACE.unpack(place)[1]
            seen[number] += 1
            if randbelow(seen[number]) == 0:  # so each of n chunks is chosen with probability 1/n
                chosen[self._keys[number]] = chunk_id
        return chosen

    def key_ids(self) -> list[bytes]:
        """Every key id that a chunk in the index is sealed with."""
        return list(self._keys)


def index_keys(storage: Storage) -> list[str]:
    """Return the keys of all index objects. Other names below index/ are not part of the repository."""
    return [info.key for info in storage.list(INDEX_PREFIX) if _NAME.fullmatch(info.key.removeprefix(INDEX_PREFIX))]


def read_all(storage: Storage, read: Callable[[str], T]) -> tuple[dict[str, T], list[IntegrityError]]:
    """Read every index object with `read`; return what it gave by key, and the damage met.

    The result is all that the index held at one moment. A prune replaces index objects: where one is gone since the
    listing, its contents are in another one now, so the reading starts again.
    """
    for _ in range(ATTEMPTS):
        found: dict[str, T] = {}
        damage: list[IntegrityError] = []
        try:
            keys = index_keys(storage)
            storage.fetch_ahead(keys)
            for key in keys:
                try:
                    found[key] = read(key)
                except IntegrityError as error:
                    damage.append(error)
        except ObjectNotFound:
            continue
        return found, damage
    raise StorageUnavailable(
        f"the index of {storage.url} changed {ATTEMPTS} times while it was read", hint="Run the same command again."
    )


def read_index(storage: Storage, sealer: ObjectSealer) -> tuple[dict[str, list[PackedListing]], list[IntegrityError]]:
    """Return what every index object lists, by key, and the damage met. All of it is from one moment, see read_all."""
    return read_all(storage, lambda key: get_index(storage, sealer, key))


def index_for_writing(
    storage: Storage, sealer: ObjectSealer, *, without: frozenset[bytes] = frozenset()
) -> tuple[Index, list[IntegrityError]]:
    """Read the chunks that a new snapshot may refer to; a writer stores all others again.

    Left out are the packs `without`, packs that are missing or cut short, everything that only a damaged index object
    lists, and chunks under a key that has no wrap or has one among `without`. Returns the damage beside the index.
    """
    keys = usable_keys(data_key_wraps(storage), without)
    stored = stored_packs(storage)

    def add_to(index: Index, key: str) -> None:
        for pack in get_index(storage, sealer, key):
            if pack.pack_id not in without and stored.get(pack.pack_id) == pack.size:
                index.add(pack.listing(), keys)

    index = Index()
    _, damage = read_all(storage, lambda key: add_to(index, key))
    return index, damage


def index_for_reading(storage: Storage, sealer: ObjectSealer) -> tuple[Index, list[IntegrityError]]:
    """Read all that index objects still tell, and, where one is damaged, the directories of packs that none lists.

    A restore must not fail because the index is damaged. A pack that is missing counts only where no other one holds
    its chunks. Returns the damage beside the index.
    """
    stored = stored_packs(storage)
    index = Index()
    missing: dict[bytes, PackListing] = {}

    def add(key: str) -> None:
        for pack in get_index(storage, sealer, key):
            if stored.get(pack.pack_id) == pack.size:
                index.add(pack.listing())
            else:
                missing[pack.pack_id] = pack.listing()

    _, damage = read_all(storage, add)
    if damage:
        damage += add_unlisted_packs(index, storage, sealer)
    for pack in missing.values():
        index.add(pack)
    return index, damage


def add_unlisted_packs(index: Index, storage: Storage, sealer: ObjectSealer) -> list[IntegrityError]:
    """Add the packs that the index does not know, from their own directories. Returns the damage met."""
    damage = []
    sizes = {pack_id: size for pack_id, size in stored_packs(storage).items() if pack_id not in index.pack_sizes}
    for pack_id, found in read_directories(storage, sealer, sizes):
        if isinstance(found, IntegrityError):
            damage.append(found)
        else:
            index.add(PackListing(pack_id, sizes[pack_id], found))
    return damage
