"""Records of a tree that wait until the tree can be made: what tar sends comes before it is known what is torn."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from struct import Struct
from types import TracebackType
from typing import NamedTuple, Self

_IN_MEMORY = 32 * 1024 * 1024
_WRITE_SIZE = 256 * 1024
_HEAD = Struct("<IIQ")
"""Place in the scan, length of the record, bytes of content."""


class Spooled(NamedTuple):
    """An encoded member. `number` is its place in the scan, `size` the bytes of content that it adds to the target."""

    number: int
    record: bytes
    size: int


class Spool:
    """A queue of records, in memory up to 32 MiB and in a temporary file beyond: fill it, then iterate over it once.

    A context manager: leaving it frees what it holds.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 closed on leaving
        self._unwritten = bytearray()

    def add(self, number: int, record: bytes, size: int) -> None:
        self._unwritten += _HEAD.pack(number, len(record), size) + record
        if len(self._unwritten) >= _WRITE_SIZE:
            self._flush()

    def __iter__(self) -> Iterator[Spooled]:
        self._flush()
        self._file.seek(0)
        while head := self._file.read(_HEAD.size):
            number, length, size = _HEAD.unpack(head)
            yield Spooled(number, self._file.read(length), size)

    def _flush(self) -> None:
        self._file.write(self._unwritten)
        self._unwritten.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
