"""What a capture reads again after another scan: what vanished or changed while it was read, and what has come since.

A directory that is renamed during a capture vanishes under its old name, and under its new one it is in no list. So
the directory is scanned again, and the tree becomes what the last scan says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise

from drkit.pipeline.filesystems import Proof
from drkit.pipeline.reuse import READ, REUSE
from drkit.pipeline.scan import Entry, Scan
from drkit.pipeline.spool import Spooled

RESCANS = 2
"""A volume where names come and go all the time would never be done."""

_File = tuple[bytes, bytes, bytes]
"""Type, device and inode: what stays the same when something is renamed."""


def plan_again(scan: Scan, earlier: Scan, again: Collection[bytes]) -> bytearray:
    """Return READ or REUSE for each entry of `scan`: REUSE for what the capture has from the scan before it.

    The paths in `again` are read in any case. Directories are read if anything about them has changed, which costs a
    header each. Of files that changed since, what was captured counts: reading them again would not end. Hard links to
    one file are taken over together, or not at all, as in `plan_reuse`. A stock helper tells paths alone, so that all
    is read again.
    """
    flags = bytearray(len(scan))
    if not scan.full:
        return flags
    groups, earlier_groups = _hard_links(scan), _hard_links(earlier)
    linked = groups.keys() | earlier_groups.keys()
    moved = {
        file
        for file in linked
        if groups.get(file) != earlier_groups.get(file) or any(path in again for path in groups[file])
    }
    known = iter(earlier)
    before = next(known, None)
    for number, entry in enumerate(scan):
        while before is not None and before.path < entry.path:
            before = next(known, None)
        if before is None or before.path != entry.path or entry.path in again:
            continue
        if entry.stat[:1] == b"d":
            same = entry.stat == before.stat
        else:
            file = _file(entry)
            same = file == _file(before) and file not in moved
        flags[number] = REUSE if same else READ
    return flags


def _hard_links(scan: Scan) -> Mapping[_File, list[bytes]]:
    """The paths of each file that has several, those in the scan, in its order."""
    groups: defaultdict[_File, list[bytes]] = defaultdict(list)
    for entry in scan:
        if not entry.stat.endswith(b" 1") and entry.stat[:1] != b"d":
            groups[_file(entry)].append(entry.path)
    return groups


def _file(entry: Entry) -> _File:
    return entry.stat[:1], entry.device, entry.stat.rsplit(b" ", 2)[1]


def taken_over(scan: Scan, flags: bytearray, earlier: Scan, records: Iterable[Spooled]) -> Iterator[Spooled]:
    """Yield what is taken over from the `records` of an earlier scan, each with its place in the new one."""
    places = enumerate(earlier.paths())
    left = iter(records)
    for number, path in enumerate(scan.paths()):
        if flags[number] == REUSE:
            place = next(place for place, known in places if known == path)
            record = next(record for record in left if record.number == place)
            yield record._replace(number=number)


def entries_of(scan: Scan, paths: Collection[bytes]) -> dict[bytes, Entry]:
    """Return those entries of a scan that have one of these paths."""
    return {entry.path: entry for entry in scan if entry.path in paths}


def directories_among(scan: Scan, paths: Collection[bytes]) -> set[bytes]:
    """Return those of these paths that were directories. A stock helper's scan tells it of what holds something."""
    if scan.full:
        return {entry.path for entry in scan if entry.path in paths and entry.stat[:1] == b"d"}
    return {above for above, below in pairwise(scan.paths()) if above in paths and below.startswith(above + b"/")}


def not_found_again(scan: Scan, missing: Collection[bytes], vanished: Mapping[bytes, Entry | None]) -> set[bytes]:
    """Return those of the `vanished` paths that the last scan shows neither under their own name nor under another.

    `missing`: what that scan shows, and did not come all the same. None stands for a name that no scan has shown.
    Where inode numbers prove nothing, only the same name counts.
    """
    names: defaultdict[_File, set[bytes]] = defaultdict(set)
    for path, known in vanished.items():
        if known is not None and scan.full and scan.file_systems.proof(path) != Proof.NOTHING:
            names[_file(known)].add(path)
    left = set(vanished)
    for entry in scan:
        if entry.path not in missing:
            left.discard(entry.path)
            if names:
                left -= names.get(_file(entry), set())
    return left
