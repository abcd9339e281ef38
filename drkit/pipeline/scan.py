"""The scan: what a directory holds, listed before any of it is read.

It fixes the order, the exclusions and how many members tar must send.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from drkit.engine.helper.launch import VOLUME_MOUNT
from drkit.engine.helper.reading import RECORD_END, STOCK_RECORD_END
from drkit.errors import CaptureFailed
from drkit.pipeline.filesystems import PASSING, FileSystems
from drkit.pipeline.select import Patterns
from drkit.repository.format.names import display_path
from drkit.storage.local.mounts import Mount, parse_mounts

_READ_SIZE = 1024 * 1024


class Entry(NamedTuple):
    """One path of the scan. `stat` is the text that Member.stat keeps. A stock helper tells the path alone."""

    path: bytes
    stat: bytes
    device: bytes
    blocks: bytes


@dataclass
class Scan:
    """The paths to capture in bytewise order, as raw records: an entry is made only when it is asked for.

    A full record is `path NUL stat NUL device NUL blocks`, a stock one `./path`, so records sort in the order of their
    paths.
    """

    records: list[bytes]
    full: bool
    mounts: list[Mount] = field(default_factory=list)
    """What is mounted at and below the directory, as the helper sees it."""
    complete: bool = True
    """Whether find ended with 0. If not, its messages, read at the helper's end, must explain why."""
    sockets: list[str] = field(default_factory=list)

    @property
    def mount(self) -> Mount | None:
        """The mount of the directory itself; None where the helper could not tell."""
        return next((mount for mount in reversed(self.mounts) if mount.point == VOLUME_MOUNT.encode()), None)

    @property
    def mounts_below(self) -> dict[bytes, Mount]:
        """What is mounted below the directory, by its path there, in order. Not what comes and goes with programs."""
        head = f"{VOLUME_MOUNT}/".encode()
        below = {mount.point.removeprefix(head): mount for mount in self.mounts if mount.point.startswith(head)}
        return {path: mount for path, mount in sorted(below.items()) if mount.type not in PASSING}

    @cached_property
    def file_systems(self) -> FileSystems:
        return FileSystems(self.mounts)

    @property
    def root_inode(self) -> int:
        """The inode of the directory; 0 from a stock helper, which does not tell it."""
        return int(next(iter(self)).stat.rsplit(b" ", 2)[1]) if self.full else 0

    def is_excluded(self, exclude: Patterns, path: bytes, directory: bool) -> bool:
        """Whether `exclude` covers a path that find could not see. What is mounted there counts as a directory too."""
        point = f"{VOLUME_MOUNT}/".encode() + path
        return exclude.excludes(path, directory=directory or any(mount.point == point for mount in self.mounts))

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Entry]:
        return map(_full_entry if self.full else _stock_entry, self.records)

    def paths(self) -> Iterator[bytes]:
        if self.full:
            return (record[: record.index(b"\0")] for record in self.records)
        return (entry.path for entry in self)


def _full_entry(record: bytes) -> Entry:
    return Entry(*record.split(b"\0"))


def _stock_entry(record: bytes) -> Entry:
    return Entry(record[2:], b"", b"", b"")


def read_scan(readinto: Callable[[memoryview], int], exclude: Patterns, *, what: str, full: bool) -> Scan:
    """Read a helper's scan up to its end record; drop sockets, which tar cannot hold, and what `exclude` matches.

    `what` is scanned, for messages. Raises CaptureFailed when the scan ends without its end record, or when find failed
    without naming a path.
    """
    records = _read_records(readinto, RECORD_END if full else STOCK_RECORD_END)
    end = records.pop()
    if not end.startswith(b"end "):
        raise CaptureFailed(f"{what}: the scan broke off before its end", hint="Run drkit backup again.")
    mounts = _mounts(records.pop(0) if records else b"", what=what)
    # find ends with 1 after files that it could not see, and names these. Any other end is that of find itself.
    if end not in (b"end 0", b"end 1") or (end != b"end 0" and not records):
        raise CaptureFailed(f"{what}: find failed with status {end[4:].decode()}", hint="Run drkit helper probe.")
    if full and any(record.count(b"\0") != 3 for record in records):
        raise CaptureFailed(f"{what}: the scan is garbled", hint="Run drkit helper probe.")
    scan = Scan(records, full, mounts, complete=end == b"end 0")
    records.sort()
    if exclude:
        scan.records = list(_without(scan, exclude))
    if full:
        _drop_sockets(scan)
    if not scan.records or next(iter(scan)).path:
        raise CaptureFailed(f"{what}: the scan did not report its root", hint="Run drkit helper probe.")
    return scan


def _mounts(record: bytes, *, what: str) -> list[Mount]:
    head, _, lines = record.partition(b"\n")
    try:
        if head != b"mounts":
            raise ValueError(f"{head!r} is not the head of a list of mounts")
        return parse_mounts(lines)
    except ValueError as error:
        raise CaptureFailed(f"{what}: the scan is garbled: {error}", hint="Run drkit helper probe.") from error


def _read_records(readinto: Callable[[memoryview], int], end: bytes) -> list[bytes]:
    records: list[bytes] = []
    buffer = memoryview(bytearray(_READ_SIZE))
    rest = b""
    while True:
        count = readinto(buffer)
        if not count:
            return [*records, b""]  # `rest` was cut
        pieces = (rest + buffer[:count]).split(end)
        rest = pieces.pop()
        records += pieces
        # Nothing follows the end record until the list of members is sent.
        if not rest and records and records[-1].startswith(b"end ") and b"\0" not in records[-1]:
            return records


def _without(scan: Scan, exclude: Patterns) -> Iterator[bytes]:
    # A stock helper's scan does not tell types: whatever holds something is a directory.
    holding = set() if scan.full else {entry.path.rpartition(b"/")[0] for entry in scan}
    for record, entry in zip(scan.records, scan, strict=True):
        if not exclude.match(entry.path, directory=entry.stat[:1] == b"d" or entry.path in holding):
            yield record


def _drop_sockets(scan: Scan) -> None:
    is_socket = b"\0s "  # no path holds a NUL
    scan.sockets = [display_path(_full_entry(record).path) for record in scan.records if is_socket in record]
    if scan.sockets:
        scan.records = [record for record in scan.records if is_socket not in record]
