"""Capturing one target into a repository: a directory through its helper, or a tar stream that is there already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from heapq import merge

from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.messages import TarReport, classify_tar_stderr
from drkit.engine.helper.process import HelperExit, HelperProcess
from drkit.errors import CaptureFailed, counted
from drkit.events import Events
from drkit.pipeline.listing import requested
from drkit.pipeline.members import content_size, scanned_member, unscanned_member
from drkit.pipeline.paths import member_path
from drkit.pipeline.rescan import RESCANS, directories_among, entries_of, not_found_again, plan_again, taken_over
from drkit.pipeline.reuse import READ, ReusePlan, plan_reuse, read_everything, reused_members
from drkit.pipeline.scan import Entry, Scan, read_scan
from drkit.pipeline.select import Patterns
from drkit.pipeline.spool import Spool, Spooled
from drkit.pipeline.stream import MemberStream, ReadInto, watched
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.names import display_path
from drkit.repository.format.snapshot import FileSystem, NameList, Target, tree_chunk_ids
from drkit.repository.format.tree import TreeWriter, encode_member
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter

SETTLE_SECONDS = 120
"""How much older than its capture a file's times must be before equal times prove equal content.

A write through mmap leaves ctime and mtime as they are while the page stays dirty (30 s by default, more under load),
and a file system with coarse timestamps hides a second write within its tick.
"""


@dataclass(frozen=True)
class Capture:
    """What capturing one target works with. The functions below fill in `target`.

    `started` is the engine's clock, in seconds since the epoch. `events` are told the bytes read, under `what` as the
    task. `salt` is unknown to whoever may not guess where a directory lies.
    """

    engine: Engine
    repository: Repository
    reader: ChunkReader
    writer: RunWriter
    target: Target
    started: float
    events: Events
    salt: bytes

    def stream(self, readinto: ReadInto) -> MemberStream:
        """Read a tar stream into chunks."""
        watching = watched(readinto, partial(self.events.progress, self.target.title))
        return MemberStream(watching, self.repository.meta.member, self.writer.put_data)


class _Tree:
    """The target's tree in the making, and what it counts."""

    def __init__(self, capture: Capture) -> None:
        self._target = capture.target
        self._tree = TreeWriter(capture.writer.put_tree)
        self._files = 0
        self._bytes = 0

    def add(self, record: bytes, size: int) -> None:
        self._tree.add(record)
        self._files += 1
        self._bytes += size

    def finish(self) -> None:
        self._target.tree = [chunk_id.hex() for chunk_id in self._tree.finish()]
        self._target.aligned = self._tree.aligned
        self._target.files, self._target.bytes = self._files, self._bytes


@dataclass
class _Flaws:
    """The paths that tar read while they changed, those that vanished before it read them, and before find did."""

    torn: set[bytes] = field(default_factory=set)
    missing: set[bytes] = field(default_factory=set)
    unlisted: set[bytes] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.torn or self.missing or self.unlisted)

    @property
    def again(self) -> set[bytes]:
        return self.torn | self.missing


@dataclass
class _Reading:
    """One scan and what came of it. `records`: the tree as far as it is known then, for one pass."""

    scan: Scan
    records: Iterator[Spooled]
    flaws: _Flaws

    def note_vanished(self, vanished: dict[bytes, Entry | None], directories: set[bytes]) -> None:
        """Add the names that vanished, each with what the scan told of it, and those of directories among them."""
        if self.flaws.missing or self.flaws.unlisted:
            for name in self.flaws.unlisted:
                vanished.setdefault(name, None)
            vanished.update(entries_of(self.scan, self.flaws.missing))
            directories.update(directories_among(self.scan, self.flaws.missing))


def encoding(helper: HelperImage) -> str:
    """Name what wrote a tar stream. Two captures of one encoding give equal bytes for equal files."""
    return f"{helper.tar}, full" if helper.full else f"{helper.tar}, stock"


def capture_directory(
    capture: Capture,
    helper: HelperImage,
    start: Callable[[], HelperProcess],
    start_again: Callable[[], HelperProcess],
    exclude: Patterns,
    previous: Target | None,
) -> None:
    """Capture a directory, taking over from `previous` what has not changed.

    `start` gives the process that captures the directory, `start_again` another one for each time that it is scanned
    again, since something vanished or changed while it was read. What stays torn, and what was not found again, is
    listed in the target, which is partial if directories are among the latter. Raises CaptureFailed when the stream
    cannot be proven whole.
    """
    target = capture.target
    target.encoding = encoding(helper)
    if previous is not None and not (helper.full and _same_capture(previous, target) and _has_tree(capture, previous)):
        previous = None
    with ExitStack() as spools:
        members = spools.enter_context(Spool())
        with ExitStack() as stack:
            process = stack.enter_context(start())
            scan = read_scan(process.readinto, exclude, what=capture.target.title, full=helper.full)
            target.filesystem = _file_system(scan, capture.salt)
            plan = read_everything(scan)
            if previous is not None:
                plan = plan_reuse(scan, partial(capture.reader.members, previous), capture.writer.chunk_size)
            target.skipped = NameList.of(scan.sockets)
            if previous is not None and plan.identical and scan.complete:
                _refer_to(capture, previous, plan.chunk_ids)
                stack.pop_all()
                capture.engine.in_background(process.close)  # removing it is half of an unchanged backup's time
                return
            if not scan.complete:
                plan.read_root()
            flaws = _read(capture, process, scan, plan, members) if plan.reads else _Flaws()
        kept = reused_members(plan, scan, capture.reader.members(previous) if previous else ())
        records = merge((Spooled(at, encode_member(each), content_size(each)) for at, each in kept), members)
        # The tree waits for this: made while tar was read, it would be made a second time for what is read again.
        composed = _read_again(capture, helper, start_again, exclude, _Reading(scan, records, flaws), spools)
        capture.writer.use(plan.chunk_ids)
        tree = _Tree(capture)
        for _, record, size in composed:
            tree.add(record, size)
        tree.finish()


def _file_system(scan: Scan, salt: bytes) -> FileSystem | None:
    """Return where the scanned directory lies; None where the helper could not tell."""
    mount = scan.mount
    if mount is None:
        return None
    place = keyed_digest(salt, mount.source + b"\0" + mount.root).hex()
    return FileSystem(mount.type, place, scan.root_inode)


def capture_stream(capture: Capture, readinto: ReadInto) -> set[bytes]:
    """Capture a tar stream as it comes, and return its members' names.

    Raises CaptureFailed when the stream ends without its end marker.
    """
    tree = _Tree(capture)
    stream = capture.stream(readinto)
    names = set()
    for item in stream:
        member = unscanned_member(item)
        tree.add(encode_member(member), item.frame.size)
        names.add(member.path)
    capture.target.bytes_read += stream.bytes_read
    _require_end(capture, stream)
    tree.finish()
    return names


def can_take_over(capture: Capture, previous: Target) -> bool:
    """Whether the repository has every chunk that the tree of an earlier snapshot refers to."""
    return _has_tree(capture, previous) and all(
        capture.writer.chunk_size(chunk_id) is not None for chunk_id in _data_chunk_ids(capture, previous)
    )


def take_over(capture: Capture, previous: Target) -> None:
    """Refer to the tree of an earlier snapshot. Raises IntegrityError when one of its chunks is gone."""
    _refer_to(capture, previous, _data_chunk_ids(capture, previous))


def _data_chunk_ids(capture: Capture, target: Target) -> Iterator[bytes]:
    return (chunk_id for member in capture.reader.members(target) for chunk_id in member.chunk_ids())


def _refer_to(capture: Capture, previous: Target, data_chunk_ids: Iterable[bytes]) -> None:
    capture.writer.use(data_chunk_ids)
    capture.writer.use(tree_chunk_ids(previous))
    target = capture.target
    target.tree, target.aligned = previous.tree, previous.aligned
    target.files, target.bytes = previous.files, previous.bytes


def _has_tree(capture: Capture, previous: Target) -> bool:
    """Whether the tree's own chunks are there. If one is missing, everything is read again; a damaged one raises later.

    A new tree would refer to the same damaged chunk and be no better: the operator has to move it away first.
    """
    if all(capture.writer.chunk_size(chunk_id) is not None for chunk_id in tree_chunk_ids(previous)):
        return True
    capture.events.warn(f"{capture.target.title}: the tree of its last snapshot is gone, so all of it is read again")
    return False


def _same_capture(previous: Target, target: Target) -> bool:
    return (previous.encoding, previous.trusted_xattrs) == (target.encoding, target.trusted_xattrs)


def _read(capture: Capture, process: HelperProcess, scan: Scan, plan: ReusePlan, members: Spool) -> _Flaws:
    """Have tar read what the plan says, add what comes to `members`, and prove that the stream is whole."""
    split = None if scan.full else next((entry.path for entry in scan if b"\n" in entry.path), None)
    if split is not None:
        raise CaptureFailed(
            f"{capture.target.title}: the stock helper cannot ask for {display_path(split)}, whose name has a newline",
            hint="Remove helper.image from the policy: drkit's own helper keeps every name.",
        )
    expected = ((number, entry) for number, entry in enumerate(scan) if plan.flags[number] == READ)
    settled_before = capture.started - SETTLE_SECONDS
    missing: set[bytes] = set()
    wanted = (path for flag, path in zip(plan.flags, scan.paths(), strict=True) if flag == READ)
    with requested(process, wanted) as readinto:
        stream = capture.stream(readinto)
        for item in stream:
            path = member_path(item.frame.name)
            found = _await(path, expected, missing)
            if found is None:
                raise CaptureFailed(f"{capture.target.title}: tar sent {display_path(path)}, which was not asked for")
            number, entry = found
            if scan.full:
                member = scanned_member(item, entry, settled_before=settled_before)
            else:
                member = unscanned_member(item)
            members.add(number, encode_member(member), content_size(member))
    missing.update(entry.path for _, entry in expected)
    capture.target.bytes_read += stream.bytes_read
    _require_end(capture, stream)
    messages = _messages_of(process.finish(), capture)
    lost = missing.difference(messages.vanished)
    if lost:
        raise CaptureFailed(
            f"{capture.target.title}: {len(lost)} files did not come, {display_path(min(lost))} among them",
            hint="Run drkit backup again.",
        )
    return _Flaws(set(messages.torn), missing, _unlisted(messages, scan) if not scan.complete else set())


def _unlisted(messages: TarReport, scan: Scan) -> set[bytes]:
    """The names that find met and could not read any more, so that they are not in the scan."""
    return set(messages.vanished).difference(scan.paths())


def _await(path: bytes, expected: Iterator[tuple[int, Entry]], missing: set[bytes]) -> tuple[int, Entry] | None:
    """Advance to the entry of `path` and return it, None when it is not expected; those passed over are `missing`."""
    for item in expected:
        if item[1].path == path:
            return item
        missing.add(item[1].path)
    return None


def _require_end(capture: Capture, stream: MemberStream) -> None:
    if not stream.ended:
        raise CaptureFailed(
            f"the stream of {capture.target.title} broke off after {stream.bytes_read} bytes",
            hint="Look at the engine's log, then run drkit backup again.",
        )


def _messages_of(end: HelperExit, capture: Capture) -> TarReport:
    """Return what tar said of single files. Raises CaptureFailed for an end that its messages do not explain."""
    messages = classify_tar_stderr(end.stderr, truncated=end.stderr_truncated)
    if not messages.explains(end.code):
        reason = messages.unknown[0] if messages.unknown and not end.oom_killed else end.describe()
        raise CaptureFailed(
            f"{capture.target.title}: {reason}", hint="Run drkit helper probe, then drkit backup again."
        )
    return messages


def _read_again(
    capture: Capture,
    helper: HelperImage,
    start_again: Callable[[], HelperProcess],
    exclude: Patterns,
    last: _Reading,
    spools: ExitStack,
) -> Iterator[Spooled]:
    """Look again for what vanished, and read again what is torn, in at most `RESCANS` further scans.

    Returns the records of the tree, for one pass, and names in the target what stays torn or was not found again. The
    target is partial if a directory is among that.
    """
    vanished: dict[bytes, Entry | None] = {}
    directories: set[bytes] = set()
    for _ in range(RESCANS):
        last.note_vanished(vanished, directories)
        if not last.flaws:
            break
        members = spools.enter_context(Spool())
        with start_again() as process:
            scan = read_scan(process.readinto, exclude, what=capture.target.title, full=helper.full)
            if (scan.mount, scan.root_inode) != (last.scan.mount, last.scan.root_inode):
                raise CaptureFailed(
                    f"{capture.target.title}: something else was mounted there while it was read",
                    hint="Run drkit backup again.",
                )
            plan = ReusePlan(plan_again(scan, last.scan, last.flaws.again))
            if not scan.complete:
                plan.read_root()
            flaws = _read(capture, process, scan, plan, members) if plan.reads else _Flaws()
        kept = taken_over(scan, plan.flags, last.scan, last.records)
        last = _Reading(scan, merge(kept, members), flaws)
    last.note_vanished(vanished, directories)
    target = capture.target
    lost = not_found_again(last.scan, last.flaws.missing, vanished)
    target.skipped = NameList.of(last.scan.sockets)
    target.torn = NameList.of(map(display_path, sorted(last.flaws.torn)))
    target.vanished = NameList.of(map(display_path, sorted(lost)))
    if gone := directories & lost:
        target.make_partial(
            f"{counted(len(gone), 'directory', 'directories')} vanished while it was read and did not come back, "
            f"{display_path(min(gone))} among them: run drkit backup again, or exclude what is removed all the time"
        )
    return last.records
