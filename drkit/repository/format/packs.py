"""Packs: chunks of one kind in one object of about 32 MiB, with a sealed directory at the end.

    header      8 bytes `DRKITP1d` (data) or `DRKITP1t` (tree), 16 bytes random salt
    chunks      sealed, one behind the other
    directory   a sealed object of kind `pack`, named by header and salt: the entries (see ENTRY)
    trailer     length of the directory as u32, little-endian; 8 bytes `DRKITEND`

The salt makes the name, the SHA-256 of all bytes, one that never recurs, also when the same chunks are packed again:
the commit protocol needs that. The directory lets the index be rebuilt from packs alone.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from typing import NamedTuple

from drkit.errors import IntegrityError
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.sealing import random_bytes
from drkit.storage.base import Storage

PACK_PREFIX = "packs/"
PACK_SIZE = 32 * 1024 * 1024
"""Bytes at which a pack is closed. One more chunk may follow: packs stay under 64 MiB."""

DATA_MAGIC = b"DRKITP1d"
TREE_MAGIC = b"DRKITP1t"
END_MAGIC = b"DRKITEND"
SALT_SIZE = 16
HEADER_SIZE = 8 + SALT_SIZE
TRAILER = struct.Struct("<I8s")


class Entry(NamedTuple):
    """A chunk in a pack, as pack directories and index objects list it. Sizes in bytes."""

    chunk_id: bytes
    key_id: bytes
    offset: int
    sealed_size: int
    size: int


ENTRY = struct.Struct("<32s16sIII")


def decode_entries(data: bytes, *, source: str) -> list[Entry]:
    if len(data) % ENTRY.size:
        raise IntegrityError(
            f"{source}: a chunk list of {len(data)} bytes has no whole number of entries", object_name=source
        )
    return [Entry(*fields) for fields in ENTRY.iter_unpack(data)]


def pack_key(pack_id: bytes) -> str:
    name = pack_id.hex()
    return f"{PACK_PREFIX}{name[:2]}/{name}"


def pack_id_of(key: str) -> bytes:
    """Return the pack id that a storage key names. Raises IntegrityError for a key no pack can have."""
    name = key.rpartition("/")[2]
    try:
        pack_id = bytes.fromhex(name)
    except ValueError:
        pack_id = b""
    if len(pack_id) != 32 or pack_key(pack_id) != key:
        raise IntegrityError(f"{key} is no name of a pack", object_name=key)
    return pack_id


def pack_id_or_none(key: str) -> bytes | None:
    """Return the pack id that a storage key names, None for a name that is no part of the repository."""
    try:
        return pack_id_of(key)
    except IntegrityError:
        return None


def pack_buffer() -> mmap.mmap:
    """Return memory for a `PackBuilder`. Only what is written to takes any.

    It lies outside the heap, where a buffer that grows leaves holes: measured 26 MB less with two packs in flight.
    """
    return mmap.mmap(-1, 2 * PACK_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class PackBuilder:
    """Collects sealed chunks of one pack in `buffer`, which can serve for one pack after another.

    A fresh buffer a pack would be page faults by the thousand: measured a second for 2 GB of data. It starts at a page,
    so that a storage can write it past the page cache.
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
        return self.size >= PACK_SIZE

    @property
    def body(self) -> memoryview:
        return memoryview(self.buffer)[: self.size]

    def finish(self, sealer: ObjectSealer) -> bytes:
        """Append directory and trailer; return the pack id."""
        entries = b"".join(ENTRY.pack(*entry) for entry in self.entries)
        directory = sealer.seal("pack", bytes(self.body[:HEADER_SIZE]), entries)
        self._append(directory + TRAILER.pack(len(directory), END_MAGIC))
        return hashlib.sha256(self.body).digest()

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        end = self.size + len(data)
        if end > len(self.buffer):
            self.buffer.resize(end + PACK_SIZE)
        self.buffer[self.size : end] = data
        self.size = end


def check_pack_bytes(pack_id: bytes, body: bytes) -> None:
    """Raise IntegrityError unless these are the bytes the pack was named after. Needs no key."""
    if hashlib.sha256(body).digest() != pack_id:
        key = pack_key(pack_id)
        raise IntegrityError(f"{key} is damaged: its bytes are not those it was named after", object_name=key)


def directory_of(sealer: ObjectSealer, pack_id: bytes, body: memoryview) -> list[Entry]:
    """Return the entries of a pack whose bytes are at hand and were checked. Raises IntegrityError."""
    key = pack_key(pack_id)
    length, magic = TRAILER.unpack(body[-TRAILER.size :]) if len(body) >= HEADER_SIZE + TRAILER.size else (0, b"")
    if magic != END_MAGIC or length > len(body) - HEADER_SIZE - TRAILER.size:
        raise IntegrityError(f"{key} is no pack", object_name=key)
    end = len(body) - TRAILER.size
    sealed = sealer.open("pack", bytes(body[:HEADER_SIZE]), bytes(body[end - length : end]), source=key)
    return decode_entries(sealed, source=key)


def read_directory(storage: Storage, sealer: ObjectSealer, pack_id: bytes) -> list[Entry]:
    """Return the entries of a stored pack from its own directory. Raises IntegrityError, ObjectNotFound."""
    key = pack_key(pack_id)
    size = storage.stat(key).size
    if size < HEADER_SIZE + TRAILER.size:
        raise IntegrityError(f"{key} has {size} bytes: too short for a pack", object_name=key)
    header = storage.get(key, 0, HEADER_SIZE)
    length, magic = TRAILER.unpack(storage.get(key, size - TRAILER.size, TRAILER.size))
    if magic != END_MAGIC or header[:8] not in (DATA_MAGIC, TREE_MAGIC) or length > size - HEADER_SIZE - TRAILER.size:
        raise IntegrityError(f"{key} is no pack, or is cut short", object_name=key)
    sealed = storage.get(key, size - TRAILER.size - length, length)
    return decode_entries(sealer.open("pack", header, sealed, source=key), source=key)
