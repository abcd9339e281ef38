"""Packs: chunks of one kind in one object of about 32 MiB, with a sealed directory at the end.

    header      8 bytes `DRKITP1d` (data) or `DRKITP1t` (tree), 16 bytes random salt
    chunks      sealed, one after the other
    directory   a sealed object of kind `pack`, named by header and salt: the entries (see ENTRY)
    trailer     length of the directory as u32, little-endian; 8 bytes `DRKITEND`

The name of a pack is the SHA-256 of all its bytes. The salt makes sure that no name recurs, even when the same chunks
are packed again: the commit protocol needs that. With the directories, the index can be rebuilt from packs alone.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from typing import NamedTuple

from drkit.errors import IntegrityError
from drkit.repository.format.limits import MAX_CHUNK_SIZE, PACK, PACK_ENTRIES, SEALED, sealed_limit
from drkit.repository.format.names import content_name
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.sealing import random_bytes

PACK_PREFIX = "packs/"
PACK_SIZE = 32 * 1024 * 1024
"""Bytes at which a pack is closed."""

DATA_MAGIC = b"DRKITP1d"
TREE_MAGIC = b"DRKITP1t"
END_MAGIC = b"DRKITEND"
SALT_SIZE = 16
HEADER_SIZE = 8 + SALT_SIZE
TRAILER = struct.Struct("<I8s")
MIN_PACK_SIZE = HEADER_SIZE + TRAILER.size
MAX_SEALED_CHUNK = sealed_limit(MAX_CHUNK_SIZE)


class Entry(NamedTuple):
    """A chunk in a pack, as pack directories and index objects list it. Sizes in bytes."""

    chunk_id: bytes
    key_id: bytes
    offset: int
    sealed_size: int
    size: int


ENTRY = struct.Struct("<32s16sIII")
_SIZES = struct.Struct("<52xII")


def decode_entries(data: bytes, *, source: str) -> list[Entry]:
    """Read packed entries. Raises IntegrityError naming `source`, the storage key the bytes came from."""
    if len(data) % ENTRY.size:
        raise IntegrityError(
            f"{source}: a chunk list of {len(data)} bytes does not hold a whole number of entries", object_name=source
        )
    return [Entry(*fields) for fields in ENTRY.iter_unpack(data)]


def require_sizes(data: bytes, *, source: str) -> None:
    """Raise IntegrityError naming `source` unless every packed entry is of a chunk that readers have memory for.

    Whoever holds the meta key can write entries, and a reader asks for as many bytes as an entry says.
    """
    for sealed_size, size in _SIZES.iter_unpack(data):
        if not (0 < size <= MAX_CHUNK_SIZE and sealed_size <= MAX_SEALED_CHUNK):
            raise IntegrityError(
                f"{source} lists a chunk of {size} bytes that takes {sealed_size}: no chunk has that size",
                hint="Run drkit check.",
                object_name=source,
            )


def encode_entries(entries: Iterable[Entry]) -> bytes:
    return b"".join(ENTRY.pack(*entry) for entry in entries)


def pack_key(pack_id: bytes) -> str:
    name = pack_id.hex()
    return f"{PACK_PREFIX}{name[:2]}/{name}"


def pack_id_of(key: str) -> bytes | None:
    """Return the pack id that a storage key names, None for a key that is not a pack's."""
    try:
        pack_id = bytes.fromhex(key.rpartition("/")[2])
    except ValueError:
        return None
    return pack_id if len(pack_id) == 32 and pack_key(pack_id) == key else None


def is_small(size: int) -> bool:
    """Whether many packs of such a size should become one."""
    return 8 * size < PACK_SIZE


def pack_buffer() -> mmap.mmap:
    """Return memory for a `PackBuilder`. Pages that are never written to take none.

    It lies outside the heap, where a growing buffer would leave holes: measured 26 MB less with two packs in flight.
    """
    return mmap.mmap(-1, 2 * PACK_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class PackBuilder:
    """Collects the sealed chunks of one pack in `buffer`, which can be used for one pack after another.

    With a fresh buffer for each pack, page faults would take a second for 2 GB of data (measured). The buffer starts at
    a page, so that a storage can write it past the page cache.
    """

    def __init__(self, magic: bytes, buffer: mmap.mmap) -> None:
        self.buffer = buffer
        self.size = 0
        self.entries: list[Entry] = []
        self._append(magic + random_bytes(SALT_SIZE))

    def add(self, chunk_id: bytes, key_id: bytes, sealed: bytes | bytearray | memoryview, size: int) -> None:
        self.entries.append(Entry(chunk_id, key_id, self.size, len(sealed), size))
        self._append(sealed)

    @property
    def full(self) -> bool:
        return self.size >= PACK_SIZE or len(self.entries) >= PACK_ENTRIES

    def has_room(self, sealed_size: int) -> bool:
        """Whether a further chunk of this size leaves the pack one that readers take; it is one with a single chunk."""
        directory = sealed_limit((len(self.entries) + 1) * ENTRY.size) + TRAILER.size
        return not self.entries or self.size + sealed_size + directory <= PACK

    @property
    def body(self) -> memoryview:
        return memoryview(self.buffer)[: self.size]

    def finish(self, sealer: ObjectSealer) -> bytes:
        """Append directory and trailer; return the pack id."""
        directory = sealer.seal("pack", bytes(self.body[:HEADER_SIZE]), encode_entries(self.entries))
        self._append(directory + TRAILER.pack(len(directory), END_MAGIC))
        return bytes.fromhex(content_name(self.body))

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        end = self.size + len(data)
        if end > len(self.buffer):
            self.buffer.resize(end + PACK_SIZE)
        self.buffer[self.size : end] = data
        self.size = end


def require_pack_size(size: int, *, source: str) -> None:
    """Raise IntegrityError naming `source` unless a pack can have so many bytes."""
    if not MIN_PACK_SIZE <= size <= PACK:
        raise IntegrityError(
            f"{source} has {size} bytes: no pack has that size", hint="Run drkit check.", object_name=source
        )


def directory_size(tail: bytes | memoryview, pack_size: int, *, source: str) -> int:
    """Return how many bytes the sealed directory takes, told by the end of a pack of `pack_size` bytes.

    Raises IntegrityError naming `source` if this is not the end of a pack.
    """
    require_pack_size(pack_size, source=source)
    length, magic = TRAILER.unpack(tail[-TRAILER.size :])
    if magic != END_MAGIC or length > min(pack_size - MIN_PACK_SIZE, SEALED["pack"].stored):
        raise IntegrityError(f"{source} is not a pack, or is cut short", object_name=source)
    return int(length)


def open_directory(
    sealer: ObjectSealer, header: bytes | memoryview, tail: bytes | memoryview, pack_size: int, *, source: str
) -> list[Entry]:
    """Return the entries of a pack from its header and from a tail that holds the whole directory and the trailer.

    Raises IntegrityError naming `source`.
    """
    length = directory_size(tail, pack_size, source=source)
    if header[:8] not in (DATA_MAGIC, TREE_MAGIC):
        raise IntegrityError(f"{source} is not a pack: it starts with other bytes", object_name=source)
    end = len(tail) - TRAILER.size
    sealed = bytes(tail[end - length : end])
    payload = sealer.open("pack", bytes(header), sealed, source=source)
    entries = decode_entries(payload, source=source)
    require_sizes(payload, source=source)
    return entries


def directory_of(sealer: ObjectSealer, pack_id: bytes, body: bytes | memoryview) -> list[Entry]:
    """Return the entries of a pack whose bytes are at hand. Raises IntegrityError."""
    return open_directory(sealer, body[:HEADER_SIZE], body, len(body), source=pack_key(pack_id))
