"""Trees: the ordered members of one target, as a stream of msgpack records that is cut into chunks at record ends.

A member is one entry of a tar stream. Its raw bytes are never rebuilt: they are the concatenation of its extents.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgpack

from drkit.errors import IntegrityError
from drkit.repository.format.chunker import TREE_CHUNKS, first_cut

EXTENT = struct.Struct("<32sII")
"""Chunk id, offset in the chunk, length."""

_BUFFER_SIZE = 4 * TREE_CHUNKS.maximum
LONGEST = 4 * 1024 * 1024
"""Bytes of the longest chunk that ends at a record end. Records as long as that belong to files of about 100 GB."""
_MAX_RECORD = 1024 * 1024 * 1024
_FIELD_TYPES = (bytes, bytes, bytes, bytes, bytes, bool, bytes)


class Member(NamedTuple):
    """One tar entry of a target.

    `path` is relative to the volume's root; that of the root is empty. `stat` is what the scan saw before the entry was
    read: `type mode uid gid size mtime ctime inode links`, as GNU find prints %y %m %U %G %s %T@ %C@ %i %n. `leader` is
    the path that holds the content of a hard link, `symlink` the target of a symbolic link; both are empty otherwise.
    `digest` is the keyed BLAKE3 of the raw bytes. `settled` tells whether an equal `stat` in a later scan proves equal
    content, since mtime and ctime lay long enough before the capture that read the entry.
    """

    path: bytes
    stat: bytes
    leader: bytes
    symlink: bytes
    digest: bytes
    settled: bool
    extents: bytes

    @property
    def type(self) -> str:
        """The letter that find prints, one of f d l p b c; empty if nothing was scanned."""
        return self.stat[:1].decode("ascii")

    @property
    def raw_size(self) -> int:
        """Bytes of the member in the tar stream, including headers and padding."""
        return sum(length for _, _, length in EXTENT.iter_unpack(self.extents))

    def chunk_ids(self) -> Iterator[bytes]:
        extents = self.extents
        for position in range(0, len(extents), EXTENT.size):
            yield extents[position : position + 32]


def encode_member(member: Member) -> bytes:
    packed: bytes = msgpack.packb(member, use_bin_type=True)
    return packed


class TreeWriter:
    """Collects members in bytewise path order and stores them as chunks through `put_chunk`, in bounded memory.

    The content says where to cut, and then the record in which that is goes whole into the chunk. Cutting starts again
    behind it, so equal stretches of two trees are cut alike from the first cut that both have.
    """

    def __init__(self, put_chunk: Callable[[bytes], bytes]) -> None:
        self._put_chunk = put_chunk
        self._buffer = bytearray()
        self._ends: list[int] = []
        self._chunk_ids: list[bytes] = []
        self.aligned = True
        """Whether every chunk so far starts at a record. False once a record was too long to be kept whole."""

    def add(self, record: bytes) -> None:
        """Append one encoded member."""
        self._buffer += record
        self._ends.append(len(self._buffer))
        if len(self._buffer) >= _BUFFER_SIZE:
            self._cut(final=False)

    def finish(self) -> list[bytes]:
        """Return the ids of the tree's chunks in order."""
        self._cut(final=True)
        return self._chunk_ids

    def _cut(self, *, final: bool) -> None:
        data = bytes(self._buffer)
        start = 0
        while start < len(data):
            cut = start + first_cut(memoryview(data)[start:], TREE_CHUNKS)
            if cut == len(data) and not final:
                break
            end = self._ends[bisect_left(self._ends, cut)]
            if end - start > LONGEST:
                self.aligned = False
                end = cut
            self._chunk_ids.append(self._put_chunk(data[start:end]))
            start = end
        del self._buffer[:start]
        self._ends = [end - start for end in self._ends if end > start]


def scan_chunk(data: bytes, *, source: str) -> tuple[list[bytes], int]:
    """Return the extents of every whole record at the start of `data`, and how many bytes these records take.

    This is enough to learn which chunks a tree refers to. Raises IntegrityError for a record that is not a member.
    """
    unpacker = msgpack.Unpacker(use_list=False, raw=False, max_buffer_size=_MAX_RECORD)
    unpacker.feed(data)
    extents, whole = [], 0
    try:
        for fields in unpacker:
            extents.append(_member(fields).extents)
            whole = unpacker.tell()
    except (msgpack.UnpackException, ValueError, TypeError) as error:
        raise IntegrityError(f"the tree of {source} is damaged: {error}", hint="Run drkit check.") from error
    return extents, whole


def _member(fields: Any) -> Member:
    if type(fields) is not tuple or tuple(map(type, fields)) != _FIELD_TYPES:
        raise ValueError("a record is not a member")
    member = Member(*fields)
    if len(member.extents) % EXTENT.size:
        raise ValueError("a member does not have a whole number of extents")
    return member


def decode_members(chunks: Iterable[bytes], *, source: str) -> Iterator[Member]:
    """Yield the members of a tree from its chunks. Raises IntegrityError unless they hold whole members alone."""
    unpacker = msgpack.Unpacker(use_list=False, raw=False, max_buffer_size=_MAX_RECORD)
    fed = whole = 0
    try:
        for chunk in chunks:
            unpacker.feed(chunk)
            fed += len(chunk)
            for fields in unpacker:
                member = _member(fields)
                whole = unpacker.tell()  # here, since after the last record it also counts an unfinished one
                yield member
    except (msgpack.UnpackException, ValueError, TypeError) as error:
        raise IntegrityError(f"the tree of {source} is damaged: {error}", hint="Run drkit check.") from error
    if whole != fed:
        raise IntegrityError(f"the tree of {source} ends within a member", hint="Run drkit check.")
