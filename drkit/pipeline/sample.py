"""A sample of restored files that is read plainly, beside the tar that reads all of them back.

tar believes what a file system tells of holes. So some files are digested by another program, and compared with what
the repository holds. How many is bounded, so that a restore takes hardly longer.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator
from heapq import nlargest
from itertools import chain
from typing import NamedTuple, TypeVar

from drkit.engine.helper.process import HelperProcess
from drkit.engine.helper.reading import SAMPLE_BLOCK, SAMPLE_BLOCKS
from drkit.errors import CaptureFailed, IntegrityError
from drkit.pipeline.paths import listed_name
from drkit.pipeline.scan import Scan
from drkit.pipeline.tar.content import Stretch, is_sparse, sparse_map
from drkit.pipeline.tar.frames import TarFramer, member_records
from drkit.repository.format.names import display_path
from drkit.repository.format.tree import EXTENT, Member
from drkit.repository.reader import ChunkReader

PIECE = SAMPLE_BLOCK * SAMPLE_BLOCKS
"""Bytes of a piece, and of the largest file that is read whole."""
_RUNS, _RUN = 6, 8
"""So many runs of so many neighbours: what lies side by side in the repository is fetched at once."""
_LARGEST = 4
_SPARSE = 4
_STAT_BLOCK = 512
_FIRST_READ = 64 * 1024
_ESCAPED = re.compile(rb"[\n\r\\]")
"""What sha256sum writes in another way in a name."""

_Parsed = TypeVar("_Parsed")


class Piece(NamedTuple):
    """`length` bytes of a file, from `offset` on, which is a multiple of SAMPLE_BLOCK."""

    path: bytes
    offset: int
    length: int


class Sample(NamedTuple):
    """What is read plainly: small files, and parts of others. The same scan and `seed` give the same."""

    seed: int
    whole: list[Piece]
    parts: list[Piece]

    def pieces(self) -> Iterator[Piece]:
        return chain(self.whole, self.parts)


def choose_sample(scan: Scan, seed: int) -> Sample:
    """Choose runs of small files, some of the largest and some sparse ones: at most 60 pieces of up to PIECE bytes."""
    rng = random.Random(seed)
    small: list[tuple[bytes, int]] = []
    large: list[tuple[int, bytes]] = []
    sparse: list[tuple[int, bytes]] = []
    for path, stat, _, blocks in scan:
        if stat[:2] != b"f ":
            continue
        size = int(stat.split(b" ", 5)[4])
        if 0 < size <= PIECE:
            small.append((path, size))
        elif size and _is_listable(path):
            large.append((size, path))
            if int(blocks) * _STAT_BLOCK < size:
                sparse.append((size, path))
    starts: Iterable[int] = range(0, len(small), _RUN)
    if len(small) > _RUNS * _RUN:
        starts = sorted(rng.randrange(len(small)) for _ in range(_RUNS))
    chosen = dict(file for start in starts for file in small[start : start + _RUN] if _is_listable(file[0]))
    parts = [_piece(path, size, rng) for size, path in nlargest(_LARGEST, large)]
    for size, path in rng.sample(sparse, min(_SPARSE, len(sparse))):
        parts += [Piece(path, 0, PIECE), _piece(path, size, rng)]
    return Sample(seed, [Piece(path, 0, size) for path, size in chosen.items()], parts)


def _is_listable(path: bytes) -> bool:
    """Whether the helper can be told a name in a line, and answers it as it is."""
    return not _ESCAPED.search(path)


def _piece(path: bytes, size: int, rng: random.Random) -> Piece:
    offset = rng.randrange((size - 1) // SAMPLE_BLOCK + 1) * SAMPLE_BLOCK
    return Piece(path, offset, min(PIECE, size - offset))


def plain_digests(process: HelperProcess, sample: Sample, *, what: str) -> dict[Piece, str] | None:
    """Have a `sampled` helper digest the sample. None if its image has nothing that could.

    Raises IntegrityError naming a file that it could not read.
    """
    whole = b"".join(listed_name(piece.path) + b"\n" for piece in sample.whole)
    parts = b"".join(b"%d\n%s\n" % (piece.offset // SAMPLE_BLOCK, listed_name(piece.path)) for piece in sample.parts)
    process.write(whole + b"\n" + parts + b"\n")
    *lines, end = _answer(process, what)
    if end == b"end 127":
        return None
    told = iter(lines)
    digests: dict[Piece, str] = {}
    line = next(told, b"")
    for piece in sample.whole:
        digest, _, name = line.partition(b"  ")
        if name != listed_name(piece.path):
            raise _failed(what, piece.path, "could not be read plainly")
        digests[piece] = digest.decode()
        line = next(told, b"")
    for piece in sample.parts:
        digests[piece] = line.partition(b" ")[0].decode()
        line = next(told, b"")
    return digests


def _answer(process: HelperProcess, what: str) -> list[bytes]:
    said, buffer = b"", memoryview(bytearray(1 << 16))
    while not (said.endswith(b"\n") and said.rstrip(b"\n").rpartition(b"\n")[2].startswith(b"end ")):
        count = process.readinto(buffer)
        if not count:
            raise IntegrityError(
                f"{what}: the helper ended before it had read its sample", hint="Run drkit helper probe."
            )
        said += buffer[:count]
    return said.removesuffix(b"\n").split(b"\n")


def compare_sample(reader: ChunkReader, members: dict[bytes, Member], digests: dict[Piece, str], *, what: str) -> int:
    """Compare what was read plainly with what the repository holds; return how many files that were.

    `members` gives the member with the content of each path; further links have none. Raises IntegrityError for the
    first that differs.
    """
    compared: set[bytes] = set()
    for piece, digest in digests.items():
        if (member := members.get(piece.path)) is None:
            continue
        expected = hashlib.sha256()
        for data in Content(reader, member).read(piece.offset, piece.length):
            expected.update(data)
        if expected.hexdigest() != digest:
            raise _failed(what, piece.path, "reads differently from what tar found in it")
        compared.add(piece.path)
    return len(compared)


def _failed(what: str, path: bytes, problem: str) -> IntegrityError:
    name = display_path(path)
    return IntegrityError(
        f"{what}: {name} {problem}",
        hint="The file system does not tell the truth about its files: restore to a volume on another one.",
        object_name=name,
    )


class Content:
    """The content of a stored file, of which any part can be read without the rest."""

    def __init__(self, reader: ChunkReader, member: Member) -> None:
        self._reader = reader
        self._member = member
        start = self._grow(self._find_start)
        self._stored = start
        self._stretches = (
            self._grow(lambda raw: sparse_map(raw[start:])) if self._sparse else (Stretch(0, self._size, 0),)
        )

    def read(self, offset: int, length: int) -> Iterator[bytes | memoryview]:
        """Yield bytes of the file, with zeros for holes."""
        end = offset + length
        for stretch in self._stretches:
            first, last = max(offset, stretch.offset), min(end, stretch.offset + stretch.length)
            if first < last:
                yield bytes(first - offset)
                begin = self._stored + stretch.stored - stretch.offset
                yield from self._reader.extents([self._part(begin + first, begin + last)])
                offset = last
        yield bytes(end - offset)

    def _find_start(self, raw: bytes) -> int | None:
        frame = next(TarFramer().frames(memoryview(raw), 0), None)
        if frame is None:
            return None
        self._sparse = is_sparse(member_records(raw[: frame.data]))
        self._size = frame.size
        return frame.data

    def _grow(self, parse: Callable[[bytes], _Parsed | None]) -> _Parsed:
        """Return what `parse` makes of the first bytes of the member, of as many as it needs."""
        size = _FIRST_READ
        while (found := parse(b"".join(self._reader.extents([self._part(0, size)])))) is None:
            if size >= self._member.raw_size:
                raise CaptureFailed("a stored member is not a whole tar entry")
            size *= 4
        return found

    def _part(self, start: int, end: int) -> Member:
        """The member with the extents of its raw bytes from `start` to `end` alone."""
        packed, position = [], 0
        for chunk_id, offset, length in EXTENT.iter_unpack(self._member.extents):
            first, last = max(start, position), min(end, position + length)
            if first < last:
                packed.append(EXTENT.pack(chunk_id, offset + first - position, last - first))
            position += length
        return self._member._replace(extents=b"".join(packed))
