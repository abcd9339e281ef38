"""The index: which pack holds a chunk, and where. Runs only add index objects; all of them together are the index.

Whoever holds the meta key can make an index object that lies. So the index is a copy: what a pack holds is told by its
own directory, which counts wherever the two differ. An index object is believed as long as nothing speaks against it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from secrets import randbelow
from typing import NamedTuple, TypeVar

from drkit.errors import IntegrityError, ObjectNotFound, StorageUnavailable
from drkit.repository.format.layout import kind_of
from drkit.repository.format.limits import MAX_CHUNK_SIZE, SEALED
from drkit.repository.format.names import check_content_name, content_name
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.packs import (
    ENTRY,
    HEADER_SIZE,
    TRAILER,
    Entry,
    decode_entries,
    encode_entries,
    pack_key,
)
from drkit.repository.format.sealing import OVERHEAD
from drkit.storage.acknowledged import put_seen
from drkit.storage.base import Storage

INDEX_PREFIX = "index/"
MAX_ENTRIES = 100_000
"""Entries in one index object: 6 MB before compression, so that reading an index takes bounded memory."""
ATTEMPTS = 10
"""How often a reading starts again because a prune replaced what it read."""

_PACK = struct.Struct("<32sII")
_PLACE = struct.Struct("<IIIII")
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
        return PackedListing(self.pack_id, self.size, encode_entries(self.entries))


class PackedListing(NamedTuple):
    """The same with its entries still packed: 60 bytes a chunk instead of 400."""

    pack_id: bytes
    size: int
    entries: bytes

    def listing(self) -> PackListing:
        return PackListing(self.pack_id, self.size, decode_entries(self.entries, source=pack_key(self.pack_id)))

    def is_possible(self) -> bool:
        """Whether a pack can hold this: at least one chunk, each of a size that a reader accepts, all between header
        and trailer."""
        end = self.size - TRAILER.size
        return bool(self.entries) and all(
            offset >= HEADER_SIZE
            and offset + sealed_size <= end
            and sealed_size > OVERHEAD
            and 0 < size <= MAX_CHUNK_SIZE
            for _, _, offset, sealed_size, size in ENTRY.iter_unpack(self.entries)
        )

    @property
    def chunks(self) -> int:
        return len(self.entries) // ENTRY.size

    def chunk_ids(self) -> Iterator[bytes]:
        return (chunk_id for chunk_id, *_ in ENTRY.iter_unpack(self.entries))


def encode_packs(packs: Iterable[PackedListing]) -> Iterator[bytes]:
    """Yield payloads of index objects, each of at most MAX_ENTRIES chunks (but a pack is never split).

    A pack without chunks counts as one: however many there are, a payload stays within what readers take.
    """
    payload, count = bytearray(), 0
    for pack in packs:
        chunks = pack.chunks or 1
        if count and count + chunks > MAX_ENTRIES:
            yield bytes(payload)
            payload, count = bytearray(), 0
        payload += _PACK.pack(pack.pack_id, pack.size, pack.chunks) + pack.entries
        count += chunks
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
        self._chunks += pack.chunks or 1

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
    body = storage.get(key, limit=SEALED["index"].stored)
    check_content_name(key, body)
    return list(decode_packs(sealer.open("index", b"", body, source=key), source=key))


class Index:
    """All chunks of the repository in memory, about 220 bytes each (a chunk stands for about a megabyte of data)."""

    def __init__(self) -> None:
        self._packs: list[bytes] = []
        self._pack_numbers: dict[bytes, int] = {}
        self._keys: list[bytes] = []
        self._key_numbers: dict[bytes, int] = {}
        self._places: dict[bytes, bytes] = {}
        self.doubted: list[PackedListing] = []
        """What is said of packs that are listed differently and whose own directory cannot be read: any may be true."""
        self._more: dict[bytes, list[int]] = {}
        """The packs of a chunk that several list, besides its place."""
        self.pack_sizes: dict[bytes, int] = {}

    def add(self, pack: PackedListing, keys: Container[bytes] | None = None) -> None:
        """Add the chunks of a pack; with `keys`, only those sealed with one of them.

        A chunk that is in several packs (two writers at once) keeps the place that was added first.
        """
        if pack.pack_id in self.pack_sizes:
            return
        number = self._add_pack(pack.pack_id, pack.size)
        for chunk_id, key_id, offset, sealed_size, size in ENTRY.iter_unpack(pack.entries):
            if keys is not None and key_id not in keys:
                continue
            place = _PLACE.pack(number, self._key_number(key_id), offset, sealed_size, size)
            if self._places.setdefault(chunk_id, place) is not place:
                self._more.setdefault(chunk_id, []).append(number)

    def add_unknown(self, pack: PackedListing) -> None:
        """Add those chunks of a pack, which may be there already, that have no place so far."""
        number = self._number(pack)
        for chunk_id, key_id, offset, sealed_size, size in ENTRY.iter_unpack(pack.entries):
            if chunk_id not in self._places:
                self._places[chunk_id] = _PLACE.pack(number, self._key_number(key_id), offset, sealed_size, size)

    def agrees(self, pack: PackedListing) -> bool:
        """Whether the chunks of a pack are known, and none that has its place in the pack is elsewhere in it."""
        return all(
            place is not None and (place.pack_id != pack.pack_id or place[1:] == fields)
            for chunk_id, *rest in ENTRY.iter_unpack(pack.entries)
            for place, fields in [(self.get(chunk_id), tuple(rest))]
        )

    def correct(self, pack: PackedListing) -> None:
        """Put the chunks of a pack where its own directory says. A chunk with a place in another pack keeps that."""
        number = self._number(pack)
        for chunk_id, key_id, offset, sealed_size, size in ENTRY.iter_unpack(pack.entries):
            place = self._places.get(chunk_id)
            if place is None or _PLACE.unpack(place)[0] == number:
                self._places[chunk_id] = _PLACE.pack(number, self._key_number(key_id), offset, sealed_size, size)

    def move(self, chunk_id: bytes, pack: PackedListing, entry: Entry) -> None:
        """Give a chunk another place, in a pack that may not have been listed."""
        place = (self._number(pack), self._key_number(entry.key_id), entry.offset, entry.sealed_size, entry.size)
        self._places[chunk_id] = _PLACE.pack(*place)

    def _number(self, pack: PackedListing) -> int:
        number = self._pack_numbers.get(pack.pack_id)
        return self._add_pack(pack.pack_id, pack.size) if number is None else number

    def _add_pack(self, pack_id: bytes, size: int) -> int:
        number = self._pack_numbers[pack_id] = len(self._packs)
        self._packs.append(pack_id)
        self.pack_sizes[pack_id] = size
        return number

    def _key_number(self, key_id: bytes) -> int:
        number = self._key_numbers.get(key_id)
        if number is None:
            number = self._key_numbers[key_id] = len(self._keys)
            self._keys.append(key_id)
        return number

    def get(self, chunk_id: bytes) -> Location | None:
        place = self._places.get(chunk_id)
        if place is None:
            return None
        number, key_number, offset, sealed_size, size = _PLACE.unpack(place)
        return Location(self._packs[number], self._keys[key_number], offset, sealed_size, size)

    def other_packs(self, chunk_id: bytes) -> list[bytes]:
        """The packs that list a chunk too, besides the one where `get` places it."""
        return [self._packs[number] for number in self._more.get(chunk_id, ())]

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

    def sealed_with(self, key_id: bytes) -> Iterator[tuple[bytes, Location]]:
        """Yield the chunks under a key id that were there at the call, and their places."""
        number = self._key_numbers.get(key_id)
        for chunk_id, place in list(self._places.items()) if number is not None else ():
            if _PLACE.unpack(place)[1] == number and (location := self.get(chunk_id)) is not None:
                yield chunk_id, location

    def key_ids(self) -> list[bytes]:
        """Every key id that a chunk in the index is sealed with."""
        return list(self._keys)


def index_keys(storage: Storage) -> list[str]:
    """Return the keys of all index objects. Other names below index/ are not part of the repository."""
    return [info.key for info in storage.list(INDEX_PREFIX) if kind_of(info.key) == "index"]


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
