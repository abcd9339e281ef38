"""How the files of a scan are to be read, by what the metadata of their file systems proves."""

from __future__ import annotations

from collections import defaultdict

from drkit.engine.helper.reading import Reading
from drkit.pipeline.filesystems import Proof
from drkit.pipeline.reuse import READ, REUSE, ReusePlan
from drkit.pipeline.scan import Entry, Scan

_BLOCK = 512


def readings(scan: Scan, plan: ReusePlan) -> list[tuple[Reading, ReusePlan]]:
    """Divide what a plan reads: one part for each way to read, which takes a tar of its own. None of them is empty."""
    if scan.file_systems.least >= Proof.HOLES_AND_LINKS or not scan.full:
        return [(Reading.HOLES_TOLD, plan)]
    parts: defaultdict[Reading, bytearray] = defaultdict(lambda: bytearray([REUSE]) * len(scan))
    for number, entry in enumerate(scan):
        if plan.flags[number] == READ:
            parts[_reading(scan, entry)][number] = READ
    return [(reading, ReusePlan(flags)) for reading, flags in parts.items()]


def _reading(scan: Scan, entry: Entry) -> Reading:
    if scan.file_systems.proof(entry.path) >= Proof.HOLES_AND_LINKS:
        return Reading.HOLES_TOLD
    kind, _, _, _, size, _ = entry.stat.split(b" ", 5)
    blocks = int(entry.blocks)
    return Reading.HOLES_SEARCHED if kind == b"f" and 0 < blocks * _BLOCK < int(size) else Reading.PLAIN


def reading_back(scan: Scan) -> Reading:
    """How all of a restored volume is read back: where nothing tells of its holes, they are read as well."""
    return Reading.HOLES_TOLD if scan.file_systems.least >= Proof.HOLES_AND_LINKS else Reading.PLAIN_LINKED
