"""Writing members into an empty directory, and proving that they are there: it is captured again and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from typing import NamedTuple

from drkit.engine.helper.messages import classify_tar_stderr
from drkit.engine.helper.process import HelperExit, HelperProcess
from drkit.engine.helper.reading import Reading
from drkit.errors import DrkitError, IntegrityError, counted
from drkit.events import Events
from drkit.pipeline.describe import Description, describe, differences, without_trusted_xattrs
from drkit.pipeline.listing import requested
from drkit.pipeline.paths import listed_name, member_path
from drkit.pipeline.readings import reading_back
from drkit.pipeline.sample import Piece, choose_sample, compare_sample, plain_digests
from drkit.pipeline.scan import Scan, read_scan
from drkit.pipeline.select import Patterns
from drkit.pipeline.selection import Selected, Selection, selected_members
from drkit.pipeline.standby import StandBy, begun
from drkit.pipeline.stream import MemberStream, StreamMember, iterator_readinto, watched
from drkit.pipeline.tar.frames import END_OF_ARCHIVE
from drkit.pipeline.tar.rename import renamed
from drkit.repository.format.names import display_path
from drkit.repository.format.snapshot import Target
from drkit.repository.format.tree import Member
from drkit.repository.reader import ChunkReader
from drkit.repository.tree_search import TreeSearch

_MISMATCHES_NAMED = 20
_HEADERS_DIFFER = 64 * 1024
"""Bytes by which a member may be larger for another map of holes, other paths and the like."""


class _Unpaired(IntegrityError):
    """The members that came back are not those that were written."""


class NotEmpty(DrkitError):
    """What was to be written into holds something. Nothing was written. The message is the path of it."""


@dataclass(frozen=True)
class Restore:
    """What writing one target and verifying it share.

    `what` is what messages call the directory that is written, such as "volume db". `start_extract` gives a process
    that extracts a tar into it, `start_capture` a held one that captures it, `start_sampled` one that reads a sample of
    it as well, which `seed` chooses; `full` says whether their helper keeps everything. Without `trusted_xattrs` they
    write and read none of these, so recorded ones are not missed. `events` are told first the bytes written, then the
    bytes compared, with `what` as the task.
    """

    what: str
    start_extract: Callable[[], HelperProcess]
    start_sampled: Callable[[], HelperProcess]
    start_capture: Callable[[], HelperProcess]
    full: bool
    seed: int
    reader: ChunkReader
    member_key: bytes
    target: Target
    selection: Selection | None
    events: Events
    trusted_xattrs: bool = True

    def selected(self) -> Iterator[Selected]:
        return selected_members(self._members, self.selection)

    def _members(self) -> Iterator[Member]:
        if self.selection is not None and self.selection.ranges:
            return TreeSearch(self.reader, self.target).members(self.selection.ranges)
        return self.reader.members(self.target)

    def scan(self, process: HelperProcess) -> Scan:
        return read_scan(process.readinto, Patterns([]), what=self.what, full=self.full)


def raw_stream(reader: ChunkReader, selected: Iterable[Selected]) -> Iterator[bytes | memoryview]:
    """Yield a tar stream of members: raw bytes as they were captured, then the end marker."""
    for as_recorded, items in groupby(selected, key=lambda item: item.as_recorded):
        if as_recorded:
            yield from reader.extents(item.member for item in items)
        else:
            for item in items:
                yield from _renamed_member(reader, item)
    yield END_OF_ARCHIVE


def _renamed_member(reader: ChunkReader, item: Selected) -> Iterator[bytes | memoryview]:
    link = listed_name(item.leader) if item.leader else b""
    return renamed(reader.extents([item.member]), listed_name(item.path), link)


@contextmanager
def extracted(restore: Restore) -> Iterator[None]:
    """Write the selected members. Inside they can be read back; on leaving they are on disk.

    Raises NotEmpty, before anything is written, and DrkitError for anything that tar complains about.
    """
    with restore.start_extract() as process:
        said = _said(process)
        if said.startswith(b"holds "):
            raise NotEmpty(display_path(member_path(said.removeprefix(b"holds "))))
        for piece in raw_stream(restore.reader, restore.selected()):
            process.write(piece)
            restore.events.progress(restore.what, len(piece))
        process.close_stdin()
        if _said(process) != b"end 0":
            end = process.finish()
            _check_extraction(restore, end)
            raise DrkitError(f"{restore.what}: tar did not end: {end.describe()}", hint="Run the restore again.")
        yield
        _check_extraction(restore, process.finish())


def _said(process: HelperProcess) -> bytes:
    """Read what the helper says up to a NUL, byte by byte: more may follow at once. Empty if it ends before that."""
    said, buffer = b"", memoryview(bytearray(1))
    while process.readinto(buffer):
        if buffer[0] == 0:
            return said
        said += buffer
    return b""


def _check_extraction(restore: Restore, end: HelperExit) -> None:
    messages = classify_tar_stderr(end.stderr, truncated=end.stderr_truncated)
    complaints = [*messages.unknown, *map(display_path, messages.vanished + messages.torn)]
    if end.code or complaints:
        raise DrkitError(
            f"{restore.what}: {complaints[0] if complaints else end.describe()}",
            hint="Run drkit helper probe, then run the restore again.",
        )


class Verified(NamedTuple):
    """Members and bytes that were compared. `sampled` files were read plainly too."""

    members: int
    bytes: int
    sampled: int


@contextmanager
def verifier(restore: Restore) -> Iterator[Callable[[], Verified]]:
    """Yield `verify`, whose helper starts while the extraction goes on.

    `verify()` captures what was written, compares every member with its recorded digest, and a sample of the files with
    what another program reads in them. It raises IntegrityError naming the paths that differ, are missing, or were not
    restored.
    """
    with StandBy(lambda what: restore.start_sampled(), [restore.what]) as standby:
        yield lambda: _verify(restore, standby.take(restore.what))


def _verify(restore: Restore, process: HelperProcess) -> Verified:
    mismatched: list[Selected] = []
    sampled: dict[bytes, Member] = {}
    count = 0
    with process:
        scan = restore.scan(process)
        _pass_over_lost_and_found(restore, scan)
        digests = _plain_digests(restore, process, scan)
        in_sample = {piece.path for piece in digests}
        try:
            with requested(process, scan.paths(), reading_back(scan)) as readinto:
                watching = watched(readinto, partial(restore.events.progress, restore.what))
                stream = MemberStream(watching, restore.member_key)
                for found, item in _paired(restore, stream, restore.selected()):
                    if found.digest != item.member.digest or not item.as_recorded:
                        mismatched.append(item)
                    if item.path in in_sample and not item.leader:
                        sampled[item.path] = item.member
                    count += 1
        except _Unpaired:
            _compare_paths(restore, scan.paths(), (item.path for item in restore.selected()))
            raise
        _check_end(restore, process, stream)
    if mismatched:
        _compare_meaning(restore, mismatched)
    compared = compare_sample(restore.reader, sampled, digests, what=restore.what)
    return Verified(count, stream.bytes_read, compared)


def _plain_digests(restore: Restore, process: HelperProcess, scan: Scan) -> dict[Piece, str]:
    """Have a sample read plainly; nothing where the helper has no programs for it, or its scan tells no sizes."""
    digests = plain_digests(process, choose_sample(scan, restore.seed), what=restore.what) if scan.full else None
    if digests is None:
        restore.events.note(
            f"{restore.what}: verified by tar alone: this helper image cannot read a sample of the files"
        )
    return digests or {}


def _pass_over_lost_and_found(restore: Restore, scan: Scan) -> None:
    """Leave out the directory that a fresh file system holds, unless the snapshot has one too."""
    made = [record for record in scan.records if record.startswith(b"lost+found\0d")]
    if made and not any(item.path == b"lost+found" for item in restore.selected()):
        scan.records.remove(made[0])


def _paired(
    restore: Restore, stream: MemberStream, items: Iterable[Selected]
) -> Iterator[tuple[StreamMember, Selected]]:
    expected = iter(items)
    for found in stream:
        item = next(expected, None)
        if item is None or member_path(found.frame.name) != item.path:
            raise _Unpaired(f"{restore.what}: it changed while it was verified", hint="Run the restore again.")
        yield found, item
    left = next(expected, None)
    if left is not None:
        raise _Unpaired(
            f"{restore.what}: {display_path(left.path)} could not be read back", hint="Run the restore again."
        )


def _compare_paths(restore: Restore, found: Iterator[bytes], expected: Iterator[bytes]) -> None:
    """Raise IntegrityError for the first path that only one of the two has. Both are in bytewise order."""
    for path in expected:
        here = next(found, None)
        if here is None or here > path:
            raise _path_error(restore, path, "is missing")
        if here != path:
            raise _path_error(restore, here, "was not restored by drkit but is there")
    extra = next(found, None)
    if extra is not None:
        raise _path_error(restore, extra, "was not restored by drkit but is there")


def _path_error(restore: Restore, path: bytes, problem: str) -> IntegrityError:
    name = display_path(path)
    return IntegrityError(f"{restore.what}: {name} {problem}", hint="Run the restore again.", object_name=name)


def _check_end(restore: Restore, process: HelperProcess, stream: MemberStream) -> None:
    end = process.finish()
    messages = classify_tar_stderr(end.stderr, truncated=end.stderr_truncated)
    if not stream.ended or end.code or messages.unknown or messages.torn or messages.vanished:
        raise IntegrityError(
            f"{restore.what}: reading the restored data back failed: {end.describe()}",
            hint="Run the restore again.",
        )


def _compare_meaning(restore: Restore, items: list[Selected]) -> None:
    """Compare what members mean whose bytes differ. Raises IntegrityError for those that really differ.

    Holes that were filled are no difference, but a warning: the files take more space than they did.
    """
    wrong: list[str] = []
    filled: list[int] = []
    with begun(restore.start_capture()) as process:
        scan = restore.scan(process)
        reading = reading_back(scan)
        with requested(process, (item.path for item in items), reading) as readinto:
            stream = MemberStream(readinto, restore.member_key, split=True)
            for found, item in _paired(restore, stream, items):
                recorded = _described(restore, item.member)._replace(path=item.path, leader=item.leader)
                fields = differences(recorded, describe(found))
                if fields:
                    wrong.append(f"{display_path(item.path)} ({', '.join(fields)})")
                grown = found.frame.end - found.frame.start - item.member.raw_size
                if reading == Reading.HOLES_TOLD and grown > _HEADERS_DIFFER:
                    filled.append(grown)
        _check_end(restore, process, stream)
    if wrong:
        named = "; ".join(wrong[:_MISMATCHES_NAMED])
        raise IntegrityError(
            f"{restore.what}: {len(wrong)} restored files differ from the snapshot: {named}",
            hint="Run drkit verify, then run the restore again.",
            object_name=wrong[0],
        )
    if filled:
        restore.events.warn(
            f"{restore.what}: {counted(len(filled), 'file')} came back with holes filled, and takes "
            f"{sum(filled) >> 20} MiB more on the disk than in the snapshot; the content is the same",
        )


def _described(restore: Restore, member: Member) -> Description:
    pieces: Iterator[bytes | memoryview] = chain(restore.reader.extents([member]), [END_OF_ARCHIVE])
    stream = MemberStream(iterator_readinto(pieces), restore.member_key, split=True)
    description = describe(next(iter(stream)))
    return description if restore.trusted_xattrs else without_trusted_xattrs(description)
