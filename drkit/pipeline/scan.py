"""The scan: what a volume holds, before anything of it is read. It rules order, excludes and the expected count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from drkit.errors import CaptureFailed
from drkit.pipeline.select import Patterns
from drkit.repository.names import display_path

_READ_SIZE = 1024 * 1024
_FIELDS = 10
"""Blanks before the path: device, type, mode, uid, gid, size, mtime, ctime, inode and links stand there."""


class Entry(NamedTuple):
    """One path of the scan. `stat` is the text that Member.stat keeps; empty from a stock helper."""

    path: bytes
    stat: bytes
    device: bytes


@dataclass
class Scan:
    """The paths to capture in bytewise order, as raw records: entries are made as they are asked for."""

    records: list[bytes]
    full: bool
    complete: bool = True
    """Whether find ended with 0; else its messages, read at the helper's end, must explain why."""
    sockets: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Entry]:
        return map(_full_entry if self.full else _stock_entry, self.records)


def _full_entry(record: bytes) -> Entry:
    parts = record.split(b" ", _FIELDS)
    device, path = parts[0], parts[_FIELDS]
    return Entry(path, record[len(device) + 1 : len(record) - len(path) - 1], device)


def _stock_entry(record: bytes) -> Entry:
    return Entry(record[2:], b"", b"")


def _full_path(record: bytes) -> bytes:
    return record.split(b" ", _FIELDS)[_FIELDS]


def _stock_path(record: bytes) -> bytes:
    return record[2:]


def read_scan(readinto: Callable[[memoryview], int], exclude: Patterns, *, full: bool) -> Scan:
    """Read a helper's scan up to its end record; drop sockets, which tar cannot hold, and what `exclude` matches.

    Raises CaptureFailed when the scan ends without its end record, or find reported a failure that names no path.
    """
    records = _read_records(readinto)
    end = records.pop()
    if not end.startswith(b"end "):
        raise CaptureFailed("the scan of the volume ended before its end", hint="Run drkit backup again.")
    if end != b"end 0" and not records:
        raise CaptureFailed(f"find failed with status {end[4:].decode()}", hint="Run drkit helper probe.")
    if full and any(record.count(b" ") < _FIELDS for record in records):
        raise CaptureFailed("the scan of the volume is garbled", hint="Run drkit helper probe.")
    scan = Scan(records, full, complete=end == b"end 0")
    records.sort(key=_full_path if full else _stock_path)
    if full:
        _drop_sockets(scan)
    if exclude:
        scan.records = list(_without(scan, exclude))
    if not scan.records or next(iter(scan)).path:
        raise CaptureFailed("the scan of the volume did not report its root", hint="Run drkit helper probe.")
    return scan


def _read_records(readinto: Callable[[memoryview], int]) -> list[bytes]:
    records: list[bytes] = []
    buffer = memoryview(bytearray(_READ_SIZE))
    rest = b""
    while True:
        count = readinto(buffer)
        if not count:
            return [*records, b""]  # `rest` is a record that was cut
        pieces = (rest + buffer[:count]).split(b"\0")
        rest = pieces.pop()
        records += pieces
        # Nothing follows the end record until the list of members is sent.
        if not rest and records and records[-1].startswith(b"end "):
            return records


def _without(scan: Scan, exclude: Patterns) -> Iterator[bytes]:
    # What holds something is a directory: of a stock helper's scan more is not known.
    holding = set() if scan.full else {entry.path.rpartition(b"/")[0] for entry in scan}
    for record, entry in zip(scan.records, scan, strict=True):
        if not exclude.match(entry.path, directory=entry.stat[:1] == b"d" or entry.path in holding):
            yield record


def _drop_sockets(scan: Scan) -> None:
    kept = []
    for record, entry in zip(scan.records, scan, strict=True):
        if entry.stat[:1] == b"s":
            scan.sockets.append(display_path(entry.path))
        else:
            kept.append(record)
    scan.records = kept
