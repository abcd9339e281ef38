"""Which members of the previous tree an incremental capture takes over, and which it reads again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from drkit.pipeline.filesystems import Proof
from drkit.pipeline.scan import Scan
from drkit.repository.format.chunker import DATA_CHUNKS
from drkit.repository.format.tree import EXTENT, Member

READ, REUSE = 0, 1

SMALL = 2 * DATA_CHUNKS.maximum
"""Bytes of the largest member that is read again only because its chunk is mostly dead.

A larger one shares with its neighbours only the chunks at its two ends: reading a database's unchanged file again would
cost far more than what is left in them.
"""


@dataclass
class ReusePlan:
    """READ or REUSE for each entry of a scan, in its order."""

    flags: bytearray
    identical: bool = False
    """Whether every entry is taken over and the previous tree held nothing else: then the tree is the same."""
    chunk_ids: set[bytes] = field(default_factory=set)
    """The data chunks of the members taken over."""

    @property
    def reads(self) -> int:
        return self.flags.count(READ)

    def read_root(self) -> None:
        """Read the root, so that tar runs whatever else has changed: the helper's end then explains what find met."""
        self.flags[0] = READ


def read_everything(scan: Scan) -> ReusePlan:
    return ReusePlan(bytearray(len(scan)))


def plan_reuse(
    scan: Scan, previous: Callable[[], Iterable[Member]], chunk_size: Callable[[bytes], int | None]
) -> ReusePlan:
    """Merge-join scan and previous tree, both in bytewise path order.

    A member is taken over if it was settled when it was read and its `stat` is the same now, where that proves equal
    content. Hard links to one file are taken over together or not at all: tar stores the content with whichever comes
    first. Small members whose chunk is less than half live are read again: otherwise files that change one by one would
    keep every chunk they once shared. `chunk_size` returns the size of a chunk that may be referred to, None for any
    other; members in one of those are read again.
    """
    plan = read_everything(scan)
    groups: defaultdict[tuple[bytes, bytes], list[tuple[int, Member | None]]] = defaultdict(list)
    live: Counter[bytes] = Counter()
    dropped = False
    proof = scan.file_systems.proof
    members = iter(previous())
    member = next(members, None)
    for number, entry in enumerate(scan):
        while member is not None and member.path < entry.path:
            dropped = True
            member = next(members, None)
        known = None
        if member is not None and member.path == entry.path:
            if member.settled and member.stat == entry.stat and proof(entry.path) == Proof.CONTENT:
                known = member
                for chunk_id, _, length in EXTENT.iter_unpack(member.extents):
                    live[chunk_id] += length
            member = next(members, None)
        if not entry.stat.endswith(b" 1") and entry.stat[:1] != b"d":
            inode = entry.stat.rsplit(b" ", 2)[1]
            groups[entry.device, inode].append((number, known))
        elif known is not None:
            plan.flags[number] = REUSE
    for group in groups.values():
        if _is_whole(group):
            for number, _ in group:
                plan.flags[number] = REUSE
        else:
            for _, known in group:
                for chunk_id, _, length in EXTENT.iter_unpack(known.extents if known else b""):
                    live[chunk_id] -= length
    live = +live  # drops the chunks of which nothing is left
    sizes = {chunk_id: chunk_size(chunk_id) for chunk_id in live}
    gone = {chunk_id for chunk_id, size in sizes.items() if size is None}
    thin = {chunk_id for chunk_id, size in sizes.items() if size is not None and 2 * live[chunk_id] < size}
    plan.chunk_ids = set(live) - gone - thin
    if gone or thin:
        _read_again(plan, scan, previous(), gone, thin, groups.values())
    plan.identical = not plan.reads and not dropped and member is None
    return plan


def _is_whole(group: list[tuple[int, Member | None]]) -> bool:
    """Whether these links were captured together: the first holds the content, the others link to it."""
    first = group[0][1]
    if first is None or first.leader:
        return False
    return all(member is not None and member.leader == first.path for _, member in group[1:])


def _read_again(
    plan: ReusePlan,
    scan: Scan,
    previous: Iterable[Member],
    gone: set[bytes],
    thin: set[bytes],
    groups: Collection[list[tuple[int, Member | None]]],
) -> None:
    # A further link to a large file is a small member, but reading it again means reading the file.
    of_large = {
        number for group in groups if sum(known.raw_size for _, known in group if known) > SMALL for number, _ in group
    }
    for number, member in reused_members(plan, scan, previous):
        thin_here = thin.intersection(member.chunk_ids())
        small = member.raw_size <= SMALL and number not in of_large
        if not gone.isdisjoint(member.chunk_ids()) or (thin_here and small):
            plan.flags[number] = READ
        else:
            plan.chunk_ids |= thin_here
    for group in groups:
        if any(plan.flags[number] == READ for number, _ in group):
            for number, _ in group:
                plan.flags[number] = READ


def reused_members(plan: ReusePlan, scan: Scan, previous: Iterable[Member]) -> Iterator[tuple[int, Member]]:
    """Yield the members taken over, each with its place in the scan."""
    members = iter(previous)
    for number, entry in enumerate(scan):
        if plan.flags[number] == REUSE:
            yield number, next(member for member in members if member.path == entry.path)
