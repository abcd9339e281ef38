"""Finding members by bisection, where every chunk of a volume's tree starts at a record: few chunks are read, not all.

Whoever holds the meta key can write a record that calls a tree aligned, and a tree in any order. So what bisection
finds is shown; if it finds nothing, or something does not fit, the whole tree is read.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from drkit.errors import IntegrityError
from drkit.repository.format.kinds import Kind
from drkit.repository.format.snapshot import Target, tree_chunk_ids
from drkit.repository.format.tree import Member, decode_members
from drkit.repository.reader import ChunkReader


class Range(NamedTuple):
    """The paths from `first` on that lie before `end`, bytewise."""

    first: bytes
    end: bytes


def at(path: bytes) -> Range:
    return Range(path, path + b"\0")


def below(path: bytes) -> Range:
    """The paths below a directory, which must not be the root."""
    return Range(path + b"/", path + b"0")  # 0 is the next byte after /


def starting_with(prefix: bytes) -> Range:
    """The paths that start with these bytes, which must not be empty or all be 255."""
    low = prefix.rstrip(b"\xff")
    return Range(prefix, low[:-1] + bytes([low[-1] + 1]))


def is_searchable(target: Target) -> bool:
    """Whether bisection may be tried. Only the members of a volume are in the order of their paths."""
    return target.kind == Kind.VOLUME and target.aligned


def members_in(reader: ChunkReader, target: Target, ranges: Sequence[Range]) -> Iterator[Member]:
    """Yield the members of a target whose paths lie in `ranges`, in the order of the tree, each once.

    Reads the whole tree if bisection may not be tried or finds nothing. Raises IntegrityError for a tree that is
    damaged, and for one that proves to be in another order after members of it were yielded.
    """
    found = False
    if is_searchable(target):
        try:
            for member in TreeSearch(reader, target).members(ranges):
                found = True
                yield member
        except IntegrityError:
            if found:
                raise
    if not found:
        for member in reader.members(target):
            if any(first <= member.path < end for first, end in ranges):
                yield member


class TreeSearch:
    """Reads the members of one tree by their paths. Keeps two paths of every chunk it has read."""

    def __init__(self, reader: ChunkReader, target: Target) -> None:
        self._reader = reader
        self._target = target
        self._chunk_ids = tree_chunk_ids(target)
        self._known: dict[int, tuple[bytes, bytes]] = {}
        """By the number of a chunk: its first path, and the last one that was decoded."""
        self._numbers: list[int] = []
        """The chunks in `_known`, in order."""
        self._decoded: tuple[int, list[Member]] = (-1, [])

    def members(self, ranges: Iterable[Range]) -> Iterator[Member]:
        """Yield the members whose paths lie in `ranges`, in bytewise order, each once.

        Reads a few chunks to find each range, and then those that it lies in. Raises IntegrityError if a chunk cannot
        be read or does not hold whole members, or if what was read is not in order.
        """
        done = b""
        for first, end in sorted(ranges):
            first = max(first, done)
            if first < end:
                yield from self._between(first, end)
                done = end

    def _between(self, first: bytes, end: bytes) -> Iterator[Member]:
        count = len(self._chunk_ids)
        start = bisect_right(range(count), first, key=self._first) - 1
        for number in range(max(start, 0), count):
            members = self._members(number)
            here = bisect_left(members, first, key=_path)
            stop = bisect_left(members, end, key=_path)
            yield from members[here:stop]
            if stop < len(members) or members[-1].path + b"\0" >= end:  # which no path lies between
                return

    def _first(self, number: int) -> bytes:
        if number not in self._known:
            for member in self._decode(number):
                self._note(number, member.path, member.path)
                break
            else:
                raise self._out_of_order()
        return self._known[number][0]

    def _members(self, number: int) -> list[Member]:
        """Return the members of a chunk, and check that they stand in order, also beside the chunks known so far."""
        if self._decoded[0] != number:
            members = list(self._decode(number))
            paths = [member.path for member in members]
            if not paths or any(map(bytes.__ge__, paths, paths[1:])):
                raise self._out_of_order()
            self._note(number, paths[0], paths[-1])
            self._decoded = number, members
        return self._decoded[1]

    def _note(self, number: int, first: bytes, last: bytes) -> None:
        if number not in self._known:
            insort(self._numbers, number)
        self._known[number] = first, last
        place = bisect_left(self._numbers, number)
        known = [self._known[each] for each in self._numbers[max(place - 1, 0) : place + 2]]
        if any(one[1] >= other[0] for one, other in pairwise(known)):
            raise self._out_of_order()

    def _decode(self, number: int) -> Iterator[Member]:
        return decode_members([self._reader.chunk(self._chunk_ids[number], tree=True)], source=self._target.title)

    def _out_of_order(self) -> IntegrityError:
        return IntegrityError(
            f"the tree of {self._target.title} is not in the order that it claims",
            hint="Leave the path out, so that the whole tree is read.",
        )


def _path(member: Member) -> bytes:
    return member.path
