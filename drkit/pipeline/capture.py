"""Capturing one target into a repository: a directory through its helper, or a tar stream that is there already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from heapq import merge

from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.process import HelperProcess
from drkit.errors import CaptureFailed, counted
from drkit.pipeline.members import content_size, unscanned_member
from drkit.pipeline.rescan import RESCANS, directories_among, entries_of, not_found_again, plan_again, taken_over
from drkit.pipeline.reuse import ReusePlan, plan_reuse, read_everything, reused_members
from drkit.pipeline.scan import Entry, Scan, read_scan
from drkit.pipeline.select import Patterns
from drkit.pipeline.spool import Spooled
from drkit.pipeline.stream import ReadInto
from drkit.pipeline.tar_capture import Again, Capture, Flaws, Scanned, read_planned, require_end
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.names import display_path
from drkit.repository.format.snapshot import NAMES_KEPT, FileSystem, NameList, Target, tree_chunk_ids
from drkit.repository.format.tree import TreeWriter, encode_member
from drkit.storage.local.mounts import Mount

FILE_LOSS = "where inode numbers prove nothing, a stock helper keeps one of the files that share a number"
LINK_LOSS = "hard links where the file system's inode numbers prove nothing: each name is a file of its own"


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
class _Pass:
    """One scan and what came of it. `records`: the tree as far as it is known then, for one pass."""

    scan: Scan
    records: Iterator[Spooled]
    flaws: Flaws

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

    `start` gives the process that captures the directory, `start_again` another one for files that must be read in
    another way, and for each time that the directory is scanned again, since something vanished or changed while it was
    read. What stays torn, and what was not found again, is listed in the target, which is partial if directories are
    among the latter. Raises CaptureFailed when the stream cannot be proven whole.
    """
    target = capture.target
    target.encoding = encoding(helper)
    scanned = partial(read_scan, exclude=exclude, what=target.title, full=helper.full)

    @contextmanager
    def again() -> Iterator[Scanned]:
        with start_again() as process:
            yield Scanned(process, scanned(process.readinto), exclude)

    with ExitStack() as spools:
        with ExitStack() as stack:
            process = stack.enter_context(start())
            scan = scanned(process.readinto)
            target.filesystem = _file_system(scan, capture.salt, exclude)
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
            members, flaws = read_planned(capture, Scanned(process, scan, exclude), again, plan, spools)
        kept = reused_members(plan, scan, capture.reader.members(previous) if previous else ())
        records = merge((Spooled(at, encode_member(each), content_size(each)) for at, each in kept), *members)
        # The tree waits for this: made while tar was read, it would be made a second time for what is read again.
        composed = _read_again(capture, again, _Pass(scan, records, flaws), spools)
        capture.writer.use(plan.chunk_ids)
        tree = _Tree(capture)
        for _, record, size in composed:
            tree.add(record, size)
        tree.finish()


def _file_system(scan: Scan, salt: bytes, exclude: Patterns) -> FileSystem | None:
    """Return where the scanned directory lies, and what is mounted below it; None where the helper could not tell."""
    mount = scan.mount
    if mount is None:
        return None
    found = FileSystem(mount.type, _place(mount, salt), scan.root_inode)
    for path, each in list(scan.mounts_below.items())[:NAMES_KEPT]:
        digests = found.excluded if scan.is_excluded(exclude, path, directory=True) else found.below
        digests.append(_place(each, salt, path + b"\0"))
    return found


def _place(mount: Mount, salt: bytes, prefix: bytes = b"") -> str:
    return keyed_digest(salt, prefix + mount.source + b"\0" + mount.root).hex()


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
    require_end(capture, stream)
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


def _read_again(capture: Capture, again: Again, last: _Pass, spools: ExitStack) -> Iterator[Spooled]:
    """Look again for what vanished, and read again what is torn, in at most `RESCANS` further scans.

    Returns the records of the tree, for one pass, and names in the target what stays torn or was not found again. The
    target is partial if a directory is among that.
    """
    vanished: dict[bytes, Entry | None] = {}
    directories: set[bytes] = set()
    for _ in range(RESCANS):
        last.note_vanished(vanished, directories)
        if not (last.flaws.again or last.flaws.unlisted):
            break
        with again() as helper:
            scan = helper.scan
            if (scan.mount, scan.root_inode) != (last.scan.mount, last.scan.root_inode):
                raise CaptureFailed(
                    f"{capture.target.title}: something else was mounted there while it was read",
                    hint="Run drkit backup again.",
                )
            plan = ReusePlan(plan_again(scan, last.scan, last.flaws.again))
            if not scan.complete:
                plan.read_root()
            members, flaws = read_planned(capture, helper, again, plan, spools)
        kept = taken_over(scan, plan.flags, last.scan, last.records)
        flaws.unlinked |= last.flaws.unlinked
        last = _Pass(scan, merge(kept, *members), flaws)
    last.note_vanished(vanished, directories)
    target = capture.target
    _name_unlinked(capture, last)
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


def _name_unlinked(capture: Capture, last: _Pass) -> None:
    unlinked = last.flaws.unlinked
    if not unlinked:
        return
    capture.target.lost = [*capture.target.lost, LINK_LOSS if last.scan.full else FILE_LOSS]
    if not last.scan.full:
        capture.events.warn(
            f"{capture.target.title}: {counted(len(unlinked), 'file')} may be missing, "
            f"{display_path(min(unlinked))} among them: {FILE_LOSS}",
            hint="Remove helper.image from the policy: drkit's own helper reads each name.",
        )
