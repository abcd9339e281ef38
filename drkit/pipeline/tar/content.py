"""The content of a file as it comes out of a member: the bytes that are stored, with the holes of a sparse one.

GNU tar's sparse format 1.0: what is stored begins with decimal numbers in lines, padded to a block: how many stretches
of data there are, then offset and length of each. Their bytes follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from drkit.errors import CaptureFailed
from drkit.pipeline.tar.frames import BLOCK
from drkit.repository.format.digest import keyed_hasher

_REAL_SIZE = b"GNU.sparse.realsize"
_COMPARED = 4096
_ZEROS = bytes(_COMPARED)


class Stretch(NamedTuple):
    """Data of a file: `offset` and `length` in the file, and where it begins in what is stored."""

    offset: int
    length: int
    stored: int


def is_sparse(records: Mapping[bytes, bytes]) -> bool:
    """Whether pax records are those of a sparse file."""
    return _REAL_SIZE in records


def sparse_map(stored: bytes) -> tuple[Stretch, ...] | None:
    """Return the stretches of data, from the first bytes of what is stored; None if these do not hold the whole map.

    Raises CaptureFailed for what is not a map.
    """
    head, newline, _ = stored.partition(b"\n")
    if not newline and len(stored) < BLOCK:
        return None
    if not head.isdigit():
        raise CaptureFailed("a sparse member has no map")
    numbers = stored.split(b"\n", 2 * int(head) + 1)
    if len(numbers) <= 2 * int(head) + 1:
        return None
    return tuple(_stretches(numbers[1:-1], start=len(stored) - len(numbers[-1])))


def _stretches(numbers: list[bytes], *, start: int) -> Iterator[Stretch]:
    stored = (start + BLOCK - 1) // BLOCK * BLOCK
    end = 0
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        if not (offset.isdigit() and length.isdigit() and int(offset) >= end):
            raise CaptureFailed("a sparse member has a garbled map")
        yield Stretch(int(offset), int(length), stored)
        stored += int(length)
        end = int(offset) + int(length)


class ContentHasher:
    """Digests the content of one member, the same whether its holes are stored as zeros or not stored.

    `stored` is the number of its bytes; padding that follows them is passed over.
    """

    def __init__(self, key: bytes, records: Mapping[bytes, bytes], stored: int) -> None:
        self._hasher = keyed_hasher(key)
        self._sparse = is_sparse(records)
        self._size = int(records[_REAL_SIZE]) if self._sparse else stored
        self._left = stored
        self._map = bytearray()
        self._stretches: Iterator[Stretch] | None = None if self._sparse else iter([Stretch(0, stored, 0)])
        self._offset = self._end = 0
        self._block = bytearray(_COMPARED)
        self._number = 0

    def update(self, data: memoryview) -> None:
        data = data[: self._left]
        self._left -= len(data)
        if self._stretches is None:
            data = self._read_map(data)
        while data and self._stretches is not None:
            while self._offset == self._end:
                stretch = next(self._stretches, None)
                if stretch is None:
                    return
                self._offset, self._end = stretch.offset, stretch.offset + stretch.length
            count = min(len(data), self._end - self._offset)
            self._add(data[:count])
            data = data[count:]

    def digest(self) -> bytes:
        self._finish_block()
        self._hasher.update(b"%d" % self._size)
        return self._hasher.digest()

    def _read_map(self, data: memoryview) -> memoryview:
        """Return what follows the map."""
        self._map += data
        stretches = sparse_map(bytes(self._map))
        if stretches is None or (stretches and len(self._map) < stretches[0].stored):
            return data[:0]
        self._stretches = iter(stretches)
        return memoryview(bytes(self._map[stretches[0].stored :])) if stretches else data[:0]

    def _add(self, data: memoryview) -> None:
        """Digest data at `_offset`, block by block of the file, without blocks of zeros."""
        while data:
            number, start = divmod(self._offset, _COMPARED)
            count = min(_COMPARED - start, len(data))
            if number != self._number:
                self._finish_block()
                self._number = number
            if count == _COMPARED:
                self._digest_block(data[:count])
            else:
                self._block[start : start + count] = data[:count]
            self._offset += count
            data = data[count:]

    def _finish_block(self) -> None:
        self._digest_block(memoryview(self._block))
        self._block = bytearray(_COMPARED)

    def _digest_block(self, block: memoryview) -> None:
        if block != _ZEROS:
            self._hasher.update(b"%d:" % self._number)
            self._hasher.update(block)
