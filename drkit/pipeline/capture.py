"""Capturing one target into a repository: a directory through its helper, or a tar stream that is there already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from heapq import merge
from typing import NamedTuple

from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.messages import TarReport, classify_tar_stderr
from drkit.engine.helper.process import HelperProcess
from drkit.engine.helper.reading import Reading
from drkit.errors import CaptureFailed, counted
from drkit.events import Events
from drkit.pipeline.filesystems import Proof
from drkit.pipeline.listing import requested
from drkit.pipeline.members import content_size, scanned_member, unscanned_member
from drkit.pipeline.paths import member_path
from drkit.pipeline.readings import readings
from drkit.pipeline.reuse import READ, REUSE, ReusePlan, plan_reuse, read_everything, reused_members
from drkit.pipeline.scan import Entry, Scan, read_scan
from drkit.pipeline.select import Patterns
from drkit.pipeline.spool import Spool, Spooled
from drkit.pipeline.stream import MemberStream, ReadInto, watched
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.names import display_path
from drkit.repository.format.snapshot import FileSystem, NameList, Target, tree_chunk_ids
from drkit.repository.format.tree import Member, TreeWriter, encode_member
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter

SETTLE_SECONDS = 120
"""How much older than its capture a file's times must be before equal times prove equal content.

A write through mmap leaves ctime and mtime as they are while the page stays dirty (30 s by default, more under load),
and a file system with coarse timestamps hides a second write within its tick.
"""
TORN_RETRIES = 2
FILE_LOSS = "where inode numbers prove nothing, a stock helper keeps one of the files that share a number"
LINK_LOSS = "hard links where the file system's inode numbers prove nothing: each name is a file of its own"


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


class _Scanned(NamedTuple):
    """A helper that has scanned its directory, and waits to be asked for members."""

    process: HelperProcess
    scan: Scan
    exclude: Patterns


_Again = Callable[[], AbstractContextManager[_Scanned]]
"""Gives another helper for the same directory."""


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
    """The paths that tar read while they changed, those that vanished before, and doubtful further links."""

    torn: set[bytes] = field(default_factory=set)
    vanished: set[bytes] = field(default_factory=set)
    unlinked: set[bytes] = field(default_factory=set)

    def update(self, other: _Flaws) -> None:
        self.torn |= other.torn
        self.vanished |= other.vanished
        self.unlinked |= other.unlinked


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

    `start` gives the process that captures the directory, `start_again` another one for files that must be read in
    another way, and for each time that torn files are read again. What stays torn, and what vanished, is listed in the
    target. Raises CaptureFailed when the stream cannot be proven whole.
    """
    target = capture.target
    target.encoding = encoding(helper)
    scanned = partial(read_scan, exclude=exclude, what=target.title, full=helper.full)

    @contextmanager
    def again() -> Iterator[_Scanned]:
        with start_again() as process:
            yield _Scanned(process, scanned(process.readinto), exclude)

    with ExitStack() as spools:
        with ExitStack() as stack:
            process = stack.enter_context(start())
            scan = scanned(process.readinto)
            target.filesystem = _file_system(scan, capture.salt)
            if not (helper.full and previous and _same_capture(previous, target) and _has_tree(capture, previous)):
                previous = None
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
            members, flaws = _read(capture, _Scanned(process, scan, exclude), again, plan, spools)
        # The tree waits for this: made while tar was read, it would be made a second time for a file that heals.
        healed = _retry_torn(capture, again, flaws.torn)
        if flaws.unlinked:
            target.lost = [*target.lost, LINK_LOSS if helper.full else FILE_LOSS]
            if not helper.full:
                capture.events.warn(
                    f"{target.title}: {counted(len(flaws.unlinked), 'file')} may be missing, "
                    f"{display_path(min(flaws.unlinked))} among them: {FILE_LOSS}",
                    hint="Remove helper.image from the policy: drkit's own helper reads each name.",
                )
        target.torn = NameList.of(map(display_path, sorted(flaws.torn)))
        target.vanished = NameList.of(map(display_path, sorted(flaws.vanished)))
        capture.writer.use(plan.chunk_ids)
        taken_over = reused_members(plan, scan, capture.reader.members(previous) if previous else ())
        tree = _Tree(capture)
        for record, size in _composed(scan, taken_over, members, healed):
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
    """Whether an earlier capture was made in the same way, of a file system of the same type.

    A record of an earlier version does not tell the type, and may hold what metadata did not prove.
    """
    if previous.filesystem is None or target.filesystem is None or previous.filesystem.type != target.filesystem.type:
        return False
    return (previous.encoding, previous.trusted_xattrs) == (target.encoding, target.trusted_xattrs)


def _read(
    capture: Capture, first: _Scanned, again: _Again, plan: ReusePlan, spools: ExitStack
) -> tuple[list[Spool], _Flaws]:
    """Read what the plan says, of the first scan, and return the members in one spool for each way of reading.

    A tar reads in one way and takes one list, so each further way has a helper of its own, whose scan is not used.
    """
    members: list[Spool] = []
    flaws = _Flaws()
    for reading, part in readings(first.scan, plan) if plan.reads else ():
        spool = spools.enter_context(Spool())
        with nullcontext(first) if not members else again() as helper:
            flaws.update(_read_part(capture, helper, first.scan, part, reading, spool))
        members.append(spool)
    return members, flaws


def _read_part(
    capture: Capture, helper: _Scanned, scan: Scan, plan: ReusePlan, reading: Reading, members: Spool
) -> _Flaws:
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
    unlinked: set[bytes] = set()
    proof = scan.file_systems.proof
    wanted = (path for flag, path in zip(plan.flags, scan.paths(), strict=True) if flag == READ)
    with requested(helper.process, wanted, reading) as readinto:
        stream = capture.stream(readinto)
        for item in stream:
            path = member_path(item.frame.name)
            found = _await(path, expected, missing)
            if found is None:
                raise CaptureFailed(f"{capture.target.title}: tar sent {display_path(path)}, which was not asked for")
            number, entry = found
            if scan.full:
                proven = proof(path) == Proof.CONTENT
                member = scanned_member(item, entry, settled_before=settled_before if proven else None)
                if reading != Reading.HOLES_TOLD and entry.stat[:1] != b"d" and not entry.stat.endswith(b" 1"):
                    unlinked.add(path)
            else:
                member = unscanned_member(item)
                if item.leader and proof(path) == Proof.NOTHING:
                    unlinked.add(path)
            members.add(number, encode_member(member), content_size(member))
    missing.update(entry.path for _, entry in expected)
    capture.target.bytes_read += stream.bytes_read
    _require_end(capture, stream)
    messages = _messages_of(helper, capture)
    lost = missing.difference(messages.vanished)
    if lost:
        raise CaptureFailed(
            f"{capture.target.title}: {len(lost)} files did not come, {display_path(min(lost))} among them",
            hint="Run drkit backup again.",
        )
    return _Flaws(set(messages.torn), missing, unlinked)


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


def _messages_of(helper: _Scanned, capture: Capture) -> TarReport:
    """Return what tar said of single files. Raises CaptureFailed for an end that its messages do not explain."""
    end = helper.process.finish()
    excluded = partial(helper.scan.is_excluded, helper.exclude)
    messages = classify_tar_stderr(end.stderr, truncated=end.stderr_truncated, excluded=excluded)
    silent = not helper.scan.complete and not any(line.startswith(b"find: ") for line in end.stderr.split(b"\n"))
    if silent or not messages.explains(end.code):
        reason = messages.unknown[0] if messages.unknown and not end.oom_killed else end.describe()
        if silent:
            reason = "find failed, and did not say why"
        raise CaptureFailed(
            f"{capture.target.title}: {reason}", hint="Run drkit helper probe, then drkit backup again."
        )
    return messages


def _retry_torn(capture: Capture, again: _Again, torn: set[bytes]) -> dict[bytes, tuple[bytes, int]]:
    """Read torn files again, at most twice. Returns the new records of those that healed, and removes them from `torn`.

    A record is returned with the bytes of its content.
    """
    healed: dict[bytes, tuple[bytes, int]] = {}
    for _ in range(TORN_RETRIES):
        if not torn:
            break
        with ExitStack() as spools:
            with again() as helper:
                scan = helper.scan
                plan = ReusePlan(bytearray(READ if path in torn else REUSE for path in scan.paths()))
                if not plan.reads:
                    break
                members, flaws = _read(capture, helper, again, plan, spools)
            paths = {number: path for number, path in enumerate(scan.paths()) if plan.flags[number] == READ}
            for number, record, size in merge(*members):
                if paths[number] not in flaws.torn:
                    healed[paths[number]] = record, size
                    torn.discard(paths[number])
    return healed


def _composed(
    scan: Scan,
    taken_over: Iterator[tuple[int, Member]],
    read: Iterable[Iterable[Spooled]],
    healed: dict[bytes, tuple[bytes, int]],
) -> Iterator[tuple[bytes, int]]:
    """Merge the members taken over, those read and those read again, in the order of the scan: records and sizes."""
    kept = (Spooled(number, encode_member(member), content_size(member)) for number, member in taken_over)
    healed_at = {number: healed[path] for number, path in enumerate(scan.paths()) if path in healed} if healed else {}
    for number, record, size in merge(kept, *read):
        yield healed_at.get(number, (record, size))
