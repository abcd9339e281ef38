"""The index: which pack holds a chunk, and where. Index objects are only ever added; together they are the index."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from secrets import randbelow
from typing import NamedTuple, TypeVar

from drkit.errors import IntegrityError, ObjectNotFound, StorageUnavailable
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.packs import (
    ENTRY,
    PACK_PREFIX,
    Entry,
    decode_entries,
    pack_id_or_none,
    pack_key,
    read_directory,
)
from drkit.repository.keys.wraps import data_key_wraps, usable_keys
from drkit.storage.base import Storage

INDEX_PREFIX = "index/"
MAX_ENTRIES = 100_000
"""Entries in one index object: 6 MB before compression, so that reading an index is bounded in memory."""
ATTEMPTS = 10
"""How often a reading starts anew because a prune replaced what it read."""

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


def encode_packs(packs: Iterable[PackListing]) -> Iterator[bytes]:
    """Yield payloads of index objects, each of at most MAX_ENTRIES chunks (a pack is never split)."""
    payload, count = bytearray(), 0
    for pack in packs:
        if count and count + len(pack.entries) > MAX_ENTRIES:
            yield bytes(payload)
            payload, count = bytearray(), 0
        payload += _PACK.pack(pack.pack_id, pack.size, len(pack.entries))
        for entry in pack.entries:
            payload += ENTRY.pack(*entry)
        count += len(pack.entries)
    if payload:
        yield bytes(payload)


class RawPack(NamedTuple):
    """A pack as an index object describes it, its entries still packed: 60 bytes a chunk instead of 400."""

    pack_id: bytes
    size: int
    entries: bytes

    def listing(self) -> PackListing:
        return PackListing(self.pack_id, self.size, decode_entries(self.entries, source=pack_key(self.pack_id)))


def split_packs(payload: bytes, *, source: str) -> Iterator[RawPack]:
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
        yield RawPack(pack_id, size, payload[position:end])
        position = end


def decode_packs(payload: bytes, *, source: str) -> Iterator[PackListing]:
    return (pack.listing() for pack in split_packs(payload, source=source))


def put_index(storage: Storage, sealer: ObjectSealer, packs: Iterable[PackListing]) -> None:
    for payload in encode_packs(packs):
        body = sealer.seal("index", b"", payload)
        storage.put(INDEX_PREFIX + hashlib.sha256(body).hexdigest(), body)


def get_index(storage: Storage, sealer: ObjectSealer, key: str) -> list[PackListing]:
    """Read one index object. Raises IntegrityError when it is damaged, ObjectNotFound."""
    return [pack.listing() for pack in get_raw_index(storage, sealer, key)]


def get_raw_index(storage: Storage, sealer: ObjectSealer, key: str) -> list[RawPack]:
    """Like get_index, the entries left packed."""
    body = storage.get(key)
    if hashlib.sha256(body).hexdigest() != key.removeprefix(INDEX_PREFIX):
        raise IntegrityError(f"{key} is damaged: its bytes are not those it was named after", object_name=key)
    return list(split_packs(sealer.open("index", b"", body, source=key), source=key))


class Index:
    """All chunks of the repository in memory, about 220 bytes each (a chunk stands for about a megabyte of data)."""

    def __init__(self) -> None:
        self._packs: list[bytes] = []
        self._keys: list[bytes] = []
        self._key_numbers: dict[bytes, int] = {}
        self._places: dict[bytes, bytes] = {}
        self.pack_sizes: dict[bytes, int] = {}

    def add(self, pack: PackListing, keys: Container[bytes] | None = None) -> None:
        """Add a pack, or what of it is sealed with one of `keys`.

        The first place of a chunk stays; a chunk in two packs is normal (two writers at once).
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
            if randbelow(seen[number]) == 0:  # each of n comes to stay with probability 1/n
                chosen[self._keys[number]] = chunk_id
        return chosen

    def key_ids(self) -> list[bytes]:
        """Every key id that a chunk in the index is sealed with."""
        return list(self._keys)


def index_keys(storage: Storage) -> list[str]:
    """Return the keys of all index objects. Other names below index/ are no part of the repository."""
    return [info.key for info in storage.list(INDEX_PREFIX) if _NAME.fullmatch(info.key.removeprefix(INDEX_PREFIX))]


def read_all(storage: Storage, read: Callable[[str], T]) -> tuple[dict[str, T], list[IntegrityError]]:
    """Read every index object with `read`; return what it gave by key, and the damage met.

    A prune replaces index objects: one that is gone since the listing means that its contents stand elsewhere now, so
    the reading starts anew. The result is whole: it holds all that the index held at one moment.
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
        f"the index of {storage.url} changed {ATTEMPTS} times while it was read", hint="Run the same again."
    )


def load_index(
    storage: Storage, sealer: ObjectSealer, *, without: frozenset[bytes] = frozenset()
) -> tuple[Index, list[IntegrityError]]:
    """Read the index for a writer: it holds the chunks that a new snapshot may refer to, the others are written again.

    Left out are the packs `without`, those that are missing or cut short, what a damaged index object lists, and chunks
    under a key that has no wrap, or one that is among `without`. Returns the damage beside the index.
    """
    keys = usable_keys(data_key_wraps(storage), without)
    stored = stored_packs(storage)

    def add_to(index: Index, key: str) -> None:
        for pack in get_index(storage, sealer, key):
            if pack.pack_id not in without and stored.get(pack.pack_id) == pack.size:
                index.add(pack, keys)

    index = Index()
    _, damage = read_all(storage, lambda key: add_to(index, key))
    return index, damage


def stored_packs(storage: Storage) -> dict[bytes, int]:
    """Return the size of every pack that is there. Other names below packs/ are no packs, and passed over."""
    return {
        pack_id: info.size for info in storage.list(PACK_PREFIX) if (pack_id := pack_id_or_none(info.key)) is not None
    }


def salvage_index(storage: Storage, sealer: ObjectSealer) -> tuple[Index, list[IntegrityError]]:
    """Read what index objects can be read, and the directories of the packs that none of them lists.

    For reading only: a restore must not fail for a damaged index. A pack that is missing counts only where no other one
    holds its chunks. Returns the damage beside the index.
    """
    stored = stored_packs(storage)
    index = Index()
    missing: dict[bytes, PackListing] = {}

    def add(key: str) -> None:
        for pack in get_index(storage, sealer, key):
            if stored.get(pack.pack_id) == pack.size:
                index.add(pack)
            else:
                missing[pack.pack_id] = pack

    _, damage = read_all(storage, add)
    if damage:
        damage += add_unlisted_packs(index, storage, sealer)
    for pack in missing.values():
        index.add(pack)
    return index, damage


def add_unlisted_packs(index: Index, storage: Storage, sealer: ObjectSealer) -> list[IntegrityError]:
    """Add the packs that the index does not know, from their own directories. Returns the damage met."""
    damage = []
    for pack_id, size in stored_packs(storage).items():
        if pack_id in index.pack_sizes:
            continue
        try:
            index.add(PackListing(pack_id, size, read_directory(storage, sealer, pack_id)))
        except IntegrityError as error:
            damage.append(error)
        except ObjectNotFound:
            pass  # a prune removed it since the listing
    return damage
