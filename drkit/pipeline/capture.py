"""Capturing one target into a repository: a volume through its helper, an image through the engine's own archive."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from struct import Struct
from typing import IO

from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.messages import TarReport, classify_tar_stderr
from drkit.engine.helper.process import HelperExit, HelperProcess
from drkit.engine.helper.reading import start_capture
from drkit.errors import CaptureFailed
from drkit.pipeline.listing import requested
from drkit.pipeline.paths import member_path
from drkit.pipeline.reuse import READ, REUSE, ReusePlan, plan_reuse, read_everything, reused_members
from drkit.pipeline.scan import Entry, Scan, read_scan
from drkit.pipeline.select import Patterns
from drkit.pipeline.stream import MemberStream, Progress, ReadInto, StreamMember, watched
from drkit.pipeline.tar.frames import read_number
from drkit.repository.format.names import display_path
from drkit.repository.format.snapshot import NameList, Target, tree_chunk_ids
from drkit.repository.format.tree import Member, TreeWriter, encode_member
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter

log = logging.getLogger(__name__)

SETTLE_SECONDS = 120
"""How much older than its capture a file's times must be before equal times prove equal content.

A store through mmap leaves ctime and mtime as they are while the page stays dirty (30 s by default, more under load),
and a file system with coarse timestamps hides a second write within its tick.
"""
TORN_RETRIES = 2
_SPOOL_MEMORY = 32 * 1024 * 1024
_SPOOL_WRITE = 256 * 1024
_SPOOLED = Struct("<IIQ")
"""A record in the spool: place in the scan, length, bytes of content."""


@dataclass(frozen=True)
class Capture:
    """What every capture of a run shares. `started`: the engine's clock, in seconds since the epoch."""

    engine: Engine
    repository: Repository
    reader: ChunkReader
    writer: RunWriter
    started: float
    progress: Progress


class _Tree:
    """A tree in the making, and what it counts."""

    def __init__(self, capture: Capture) -> None:
        self._tree = TreeWriter(capture.writer.put_tree)
        self._files = 0
        self._bytes = 0

    def add(self, record: bytes, size: int) -> None:
        self._tree.add(record)
        self._files += 1
        self._bytes += size

    def finish(self, target: Target) -> None:
        target.tree = [chunk_id.hex() for chunk_id in self._tree.finish()]
        target.files, target.bytes = self._files, self._bytes


@dataclass
class _Reading:
    """The outcome of one run of tar: members in a spool, and what tar said of the others."""

    spool: IO[bytes]
    torn: set[bytes]
    vanished: set[bytes]


def encoding(helper: HelperImage) -> str:
    """Name what wrote a tar stream. Two captures of one encoding give equal bytes for equal files."""
    return f"{helper.tar}, full" if helper.full else f"{helper.tar}, stock"


def capture_volume(
    capture: Capture,
    helper: HelperImage,
    start: Callable[[], HelperProcess],
    target: Target,
    exclude: Patterns,
    previous: Target | None,
) -> None:
    """Capture a volume and fill in `target`, taking over from `previous` what has not changed.

    `start` gives the process that captures it; torn files are read again by others. What stays torn, and what vanished,
    is listed. Raises CaptureFailed when the stream cannot be proven whole.
    """
    target.encoding = encoding(helper)
    if previous is not None and not (helper.full and _same_capture(previous, target) and _has_tree(capture, previous)):
        previous = None
    tree = _Tree(capture)
    with ExitStack() as stack:
        process = stack.enter_context(start())
        scan = read_scan(process.readinto, exclude, full=helper.full)
        plan = read_everything(scan)
        if previous is not None:
            plan = plan_reuse(scan, partial(capture.reader.members, previous), capture.writer.chunk_size)
        target.skipped = NameList.of(scan.sockets)
        if previous is not None and plan.identical and scan.complete:
            _take_over_tree(capture, target, previous, plan)
            stack.pop_all()
            capture.engine.in_background(process.close)  # its removal is half of what is left of an unchanged backup
            return
        if not scan.complete:
            plan.flags[0] = READ  # so that tar runs, and the helper's end explains what find met
        keep = tree.add if previous is None else None
        reading = _read(capture, target, process, scan, plan, keep) if plan.reads else _nothing_read()
    retried = _retry_torn(capture, helper, target, exclude, reading)
    target.torn = NameList.of(map(display_path, sorted(reading.torn)))
    target.vanished = NameList.of(map(display_path, sorted(reading.vanished)))
    capture.writer.use(plan.chunk_ids)
    with reading.spool:
        if previous is not None or retried:  # else the tree was made while tar was read
            tree = _Tree(capture)
            for record, size in _compose(capture, scan, plan, previous, reading.spool, retried):
                tree.add(record, size)
    tree.finish(target)


def capture_stream(capture: Capture, target: Target, readinto: ReadInto) -> set[bytes]:
    """Capture a tar stream as it comes and fill in `target`; return the members' names.

    Raises CaptureFailed when the stream ends without its end marker.
    """
    tree = _Tree(capture)
    stream = MemberStream(watched(readinto, capture.progress), capture.repository.meta.member, capture.writer.put_data)
    names = set()
    for item in stream:
        member = _member(item, Entry(member_path(item.frame.name), _stat_of_header(item), b""), settled=False)
        tree.add(encode_member(member), item.frame.size)
        names.add(member.path)
    target.bytes_read += stream.bytes_read
    _require_end(stream, target)
    tree.finish(target)
    return names


def can_take_over(capture: Capture, previous: Target) -> bool:
    """Whether all that the tree of an earlier snapshot refers to is in the repository."""
    return _has_tree(capture, previous) and all(
        capture.writer.chunk_size(chunk_id) is not None
        for member in capture.reader.members(previous)
        for chunk_id in member.chunk_ids()
    )


def take_over(capture: Capture, target: Target, previous: Target) -> None:
    """Refer to the tree of an earlier snapshot. Raises IntegrityError when a chunk of it is gone."""
    for member in capture.reader.members(previous):
        capture.writer.use(member.chunk_ids())
    capture.writer.use(bytes.fromhex(chunk_id) for chunk_id in previous.tree)
    target.tree, target.files, target.bytes = previous.tree, previous.files, previous.bytes


def _has_tree(capture: Capture, previous: Target) -> bool:
    """Whether the tree's own chunks are there; without them all is read again. One that is there and damaged raises.

    A new tree would refer to the same damaged chunks and be no better: the operator has to move them away first.
    """
    if all(capture.writer.chunk_size(chunk_id) is not None for chunk_id in tree_chunk_ids(previous)):
        return True
    log.warning("%s %s: the tree of its last snapshot is gone, all of it is read again", previous.kind, previous.name)
    return False


def _same_capture(previous: Target, target: Target) -> bool:
    return (previous.encoding, previous.trusted_xattrs) == (target.encoding, target.trusted_xattrs)


def _take_over_tree(capture: Capture, target: Target, previous: Target, plan: ReusePlan) -> None:
    capture.writer.use(plan.chunk_ids)
    capture.writer.use(bytes.fromhex(chunk_id) for chunk_id in previous.tree)
    target.tree, target.files, target.bytes = previous.tree, previous.files, previous.bytes


def _nothing_read() -> _Reading:
    return _Reading(tempfile.SpooledTemporaryFile(), set(), set())


def _read(
    capture: Capture,
    target: Target,
    process: HelperProcess,
    scan: Scan,
    plan: ReusePlan,
    keep: Callable[[bytes, int], None] | None = None,
) -> _Reading:
    """Have tar read what the plan says, and prove that the stream is whole. `keep` is given each record as it comes."""
    split = None if scan.full else next((entry.path for entry in scan if b"\n" in entry.path), None)
    if split is not None:
        raise CaptureFailed(
            f"volume {target.name}: the stock helper cannot ask for {display_path(split)}, whose name has a newline",
            hint="Remove helper.image from the policy: drkit's own helper keeps every name.",
        )
    spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_MEMORY)  # noqa: SIM115 the caller closes it
    expected = ((number, entry) for number, entry in enumerate(scan) if plan.flags[number] == READ)
    settled_before = capture.started - SETTLE_SECONDS
    missing: set[bytes] = set()
    wanted = (path for flag, path in zip(plan.flags, scan.paths(), strict=True) if flag == READ)
    records = bytearray()
    with requested(process, wanted) as readinto:
        stream = MemberStream(
            watched(readinto, capture.progress), capture.repository.meta.member, capture.writer.put_data
        )
        for item in stream:
            path = member_path(item.frame.name)
            found = _await(path, expected, missing)
            if found is None:
                raise CaptureFailed(f"volume {target.name}: tar sent {display_path(path)}, which was not asked for")
            number, entry = found
            if scan.full:
                member = _member(item, entry, settled=_is_settled(entry.stat, settled_before))
            else:
                member = _member(item, Entry(path, _stat_of_header(item), b""), settled=False)
            record, size = encode_member(member), _content_size(member)
            if keep is not None:
                keep(record, size)
            records += _SPOOLED.pack(number, len(record), size) + record
            if len(records) >= _SPOOL_WRITE:
                spool.write(records)
                records.clear()
    spool.write(records)
    missing.update(entry.path for _, entry in expected)
    target.bytes_read += stream.bytes_read
    _require_end(stream, target)
    messages = _messages_of(process.finish(), target)
    lost = missing.difference(messages.vanished)
    if lost:
        raise CaptureFailed(
            f"volume {target.name}: {len(lost)} files did not come, {display_path(min(lost))} among them",
            hint="Run drkit backup again.",
        )
    spool.seek(0)
    return _Reading(spool, set(messages.torn), missing)


def _await(path: bytes, expected: Iterator[tuple[int, Entry]], missing: set[bytes]) -> tuple[int, Entry] | None:
    """Advance to the entry of `path`; those passed over did not come. None when it is not among the expected."""
    for item in expected:
        if item[1].path == path:
            return item
        missing.add(item[1].path)
    return None


def _require_end(stream: MemberStream, target: Target) -> None:
    if not stream.ended:
        raise CaptureFailed(
            f"the stream of {target.kind} {target.name} broke off after {stream.bytes_read} bytes",
            hint="Look at the engine's log, then run drkit backup again.",
        )


def _messages_of(end: HelperExit, target: Target) -> TarReport:
    """Return what tar said of single files. Raises CaptureFailed for an end that its messages do not explain."""
    messages = classify_tar_stderr(end.stderr, truncated=end.stderr_truncated)
    if not messages.explains(end.code):
        reason = messages.unknown[0] if messages.unknown and not end.oom_killed else end.describe()
        raise CaptureFailed(f"volume {target.name}: {reason}", hint="Run drkit helper probe, then drkit backup again.")
    return messages


def _retry_torn(
    capture: Capture, helper: HelperImage, target: Target, exclude: Patterns, reading: _Reading
) -> dict[bytes, tuple[bytes, int]]:
    """Read torn files again, at most twice. Returns their new records and takes the healed ones off `reading.torn`."""
    records: dict[bytes, tuple[bytes, int]] = {}
    for _ in range(TORN_RETRIES):
        if not reading.torn:
            break
        with start_capture(
            capture.engine, helper, target.name, run_id=capture.writer.run_id, trusted_xattrs=target.trusted_xattrs
        ) as process:
            scan = read_scan(process.readinto, exclude, full=helper.full)
            plan = ReusePlan(bytearray(READ if entry.path in reading.torn else REUSE for entry in scan))
            if not plan.reads:
                break
            again = _read(capture, target, process, scan, plan)
        paths = {number: entry.path for number, entry in enumerate(scan) if plan.flags[number] == READ}
        with again.spool:
            for number, record, size in _spooled(again.spool):
                if paths[number] not in again.torn:
                    records[paths[number]] = record, size
                    reading.torn.discard(paths[number])
    return records


def _compose(
    capture: Capture,
    scan: Scan,
    plan: ReusePlan,
    previous: Target | None,
    spool: IO[bytes],
    retried: dict[bytes, tuple[bytes, int]],
) -> Iterator[tuple[bytes, int]]:
    """Merge the members taken over, those read and those read again, in the order of the scan: records and sizes."""
    kept = reused_members(plan, scan, capture.reader.members(previous) if previous else ())
    read = _spooled(spool)
    next_kept, next_read = next(kept, None), next(read, None)
    for number, entry in enumerate(scan):
        if next_kept is not None and next_kept[0] == number:
            yield encode_member(next_kept[1]), _content_size(next_kept[1])
            next_kept = next(kept, None)
        elif next_read is not None and next_read[0] == number:
            yield retried.get(entry.path, next_read[1:])
            next_read = next(read, None)


def _spooled(spool: IO[bytes]) -> Iterator[tuple[int, bytes, int]]:
    while head := spool.read(_SPOOLED.size):
        number, length, size = _SPOOLED.unpack(head)
        yield number, spool.read(length), size


def _member(item: StreamMember, entry: Entry, *, settled: bool) -> Member:
    return Member(entry.path, entry.stat, item.leader, item.symlink, item.digest, settled, item.extents)


def _is_settled(stat: bytes, before: float) -> bool:
    _, _, _, _, _, mtime, ctime, _ = stat.split(b" ", 7)
    return float(mtime) < before and float(ctime) < before


def _content_size(member: Member) -> int:
    """Apparent size in bytes; a file with several hard links counts once."""
    return int(member.stat.split(b" ", 5)[4]) if member.stat.startswith(b"f") and not member.leader else 0


_TYPES = {ord("0"): b"f", 0: b"f", ord("7"): b"f", ord("1"): b"f", ord("2"): b"l", ord("3"): b"c", ord("4"): b"b"}
_TYPES |= {ord("5"): b"d", ord("6"): b"p"}


def _stat_of_header(item: StreamMember) -> bytes:
    """Return what a tar header alone knows of Member.stat: no ctime, no inode, no links."""
    header = item.frame.header
    mode, uid, gid, mtime = (read_number(header[a:b]) for a, b in ((100, 108), (108, 116), (116, 124), (136, 148)))
    kind = _TYPES.get(item.frame.flag, b"f")
    return b"%s %o %d %d %d %d 0 0 1" % (kind, mode & 0o7777, uid, gid, item.frame.size, mtime)
