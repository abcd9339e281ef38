"""Trees: the ordered members of one target, as a stream of msgpack records that is cut into chunks.

A member is one entry of a tar stream. Its bytes are never rebuilt: they are the concatenation of its extents.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgpack

from drkit.errors import IntegrityError
from drkit.repository.format.chunker import TREE_CHUNKS, cut_lengths

EXTENT = struct.Struct("<32sII")
"""Chunk id, offset in the chunk, length."""

_BUFFER_SIZE = 4 * TREE_CHUNKS.maximum
_MAX_RECORD = 1024 * 1024 * 1024
_FIELD_TYPES = (bytes, bytes, bytes, bytes, bytes, bool, bytes)


class Member(NamedTuple):
    """One tar entry of a target, or the only stream of an image.

    `path` is relative to the volume's root, the root itself is empty. `stat` is what the scan saw before the entry was
    read: `type mode uid gid size mtime ctime inode links`, as GNU find prints %y %m %U %G %s %T@ %C@ %i %n; a member
    with the same text later was not changed. `leader` is the path that holds the content of a hard link, `symlink` the
    target of a symbolic one; else empty. `digest` is the keyed BLAKE3 of the raw bytes. `settled` says that mtime and
    ctime lay long enough before the capture that read it for an equal `stat` to prove equal content.
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
        """The letter find prints: f d l p b c; empty where nothing was scanned."""
        return self.stat[:1].decode("ascii")

    @property
    def raw_size(self) -> int:
        """Bytes of the member in the tar stream, headers and padding included."""
        return sum(length for _, _, length in EXTENT.iter_unpack(self.extents))

    def chunk_ids(self) -> Iterator[bytes]:
        extents = self.extents
        for position in range(0, len(extents), EXTENT.size):
            yield extents[position : position + 32]


def encode_member(member: Member) -> bytes:
    packed: bytes = msgpack.packb(member, use_bin_type=True)
    return packed


class TreeWriter:
    """Collects members in bytewise path order and stores them as chunks through `put_chunk`, in bounded memory."""

    def __init__(self, put_chunk: Callable[[bytes], bytes]) -> None:
        self._put_chunk = put_chunk
        self._buffer = bytearray()
        self._chunk_ids: list[bytes] = []

    def add(self, record: bytes) -> None:
        """Append one encoded member."""
        self._buffer += record
        if len(self._buffer) >= _BUFFER_SIZE:
            self._cut(final=False)

    def finish(self) -> list[bytes]:
        """Return the ids of the tree's chunks in order."""
        self._cut(final=True)
        return self._chunk_ids

    def _cut(self, *, final: bool) -> None:
        data = bytes(self._buffer)
        start = 0
        for length in cut_lengths(memoryview(data), TREE_CHUNKS, final=final):
            self._chunk_ids.append(self._put_chunk(data[start : start + length]))
            start += length
        del self._buffer[:start]


def scan_chunk(data: bytes, *, source: str) -> tuple[list[bytes], int]:
    """Return the extents of every whole record that `data` starts with, and how many bytes these records take.

    For whoever needs no more of a tree than the chunks it refers to. Raises IntegrityError for what is no member.
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
        raise ValueError("a record is no member")
    member = Member(*fields)
    if len(member.extents) % EXTENT.size:
        raise ValueError("a member has no whole number of extents")
    return member


def decode_members(chunks: Iterable[bytes], *, source: str) -> Iterator[Member]:
    """Yield the members of a tree from its chunks. Raises IntegrityError for what is no whole sequence of members."""
    unpacker = msgpack.Unpacker(use_list=False, raw=False, max_buffer_size=_MAX_RECORD)
    fed = whole = 0
    try:
        for chunk in chunks:
            unpacker.feed(chunk)
            fed += len(chunk)
            for fields in unpacker:
                member = _member(fields)
                whole = unpacker.tell()  # after the last record it counts the bytes of an unfinished one too
                yield member
    except (msgpack.UnpackException, ValueError, TypeError) as error:
        raise IntegrityError(f"the tree of {source} is damaged: {error}", hint="Run drkit check.") from error
    if whole != fed:
        raise IntegrityError(f"the tree of {source} ends within a member", hint="Run drkit check.")
