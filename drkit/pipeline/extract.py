"""Writing members into a volume, and proving that they are there: the volume is captured again and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby

from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.messages import classify_tar_stderr
from drkit.engine.helper.process import HelperExit, HelperProcess
from drkit.engine.helper.reading import start_capture
from drkit.engine.helper.writing import start_extract
from drkit.errors import DrkitError, IntegrityError
from drkit.pipeline.describe import Description, describe, differences
from drkit.pipeline.listing import requested
from drkit.pipeline.paths import listed_name, member_path
from drkit.pipeline.scan import read_scan
from drkit.pipeline.select import Patterns
from drkit.pipeline.selection import Selected, Selection, selected_members
from drkit.pipeline.standby import StandBy
from drkit.pipeline.stream import MemberStream, Progress, StreamMember, iterator_readinto, watched
from drkit.pipeline.tar.frames import END_OF_ARCHIVE
from drkit.pipeline.tar.rename import renamed
from drkit.repository.format.names import display_path
from drkit.repository.format.snapshot import Target
from drkit.repository.format.tree import Member
from drkit.repository.reader import ChunkReader

_MISMATCHES_NAMED = 20


class _Unpaired(IntegrityError):
    """What came back are other members than were written, or too few."""


@dataclass(frozen=True)
class Restore:
    """What writing and verifying one target share. `progress` is told bytes as they are written or compared."""

    engine: Engine
    helper: HelperImage
    reader: ChunkReader
    member_key: bytes
    target: Target
    selection: Selection | None
    run_id: str
    progress: Progress

    def selected(self) -> Iterator[Selected]:
        return selected_members(lambda: self.reader.members(self.target), self.selection)


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
def extracted(restore: Restore, volume: str) -> Iterator[None]:
    """Write the selected members into an empty volume. Inside they can be read back; after leaving they are on disk.

    Any complaint of tar raises DrkitError.
    """
    with start_extract(
        restore.engine,
        restore.helper,
        volume,
        run_id=restore.run_id,
        trusted_xattrs=restore.target.trusted_xattrs,
    ) as process:
        for piece in raw_stream(restore.reader, restore.selected()):
            process.write(piece)
            restore.progress(len(piece))
        process.close_stdin()
        if not _tar_ended_well(process):
            end = process.finish()
            _check_extraction(end, volume)
            raise DrkitError(f"volume {volume}: tar did not end: {end.describe()}", hint="Run the restore again.")
        yield
        _check_extraction(process.finish(), volume)


def _tar_ended_well(process: HelperProcess) -> bool:
    said, buffer = b"", memoryview(bytearray(64))
    while not said.endswith(b"\0") and (count := process.readinto(buffer)):
        said += buffer[:count]
    return said == b"end 0\0"


def _check_extraction(end: HelperExit, volume: str) -> None:
    messages = classify_tar_stderr(end.stderr, truncated=end.stderr_truncated)
    complaints = [*messages.unknown, *map(display_path, messages.vanished + messages.torn)]
    if end.code or complaints:
        raise DrkitError(
            f"volume {volume}: {complaints[0] if complaints else end.describe()}",
            hint="Run drkit helper probe, then run the restore again.",
        )


@contextmanager
def verifier(restore: Restore, volume: str) -> Iterator[Callable[[], tuple[int, int]]]:
    """Yield `verify`, whose helper is started beside the extraction.

    `verify()` captures the volume again, compares every member with its recorded digest, and returns members and bytes
    compared. It raises IntegrityError naming the paths that differ, are missing, or were not restored.
    """
    with StandBy(lambda name: _start_recapture(restore, name, held=True), [volume]) as standby:
        yield lambda: _verify(restore, volume, standby.take(volume))


def _verify(restore: Restore, volume: str, process: HelperProcess) -> tuple[int, int]:
    mismatched: list[Selected] = []
    count = 0
    with process:
        scan = read_scan(process.readinto, Patterns([]), full=restore.helper.full)
        try:
            with requested(process, scan.paths()) as readinto:
                stream = MemberStream(watched(readinto, restore.progress), restore.member_key)
                for found, item in _paired(stream, restore.selected(), volume):
                    if found.digest != item.member.digest or not item.as_recorded:
                        mismatched.append(item)
                    count += 1
        except _Unpaired:
            _compare_paths(scan.paths(), (item.path for item in restore.selected()), volume)
            raise
        _check_end(process, stream, volume)
    if mismatched:
        _compare_meaning(restore, volume, mismatched)
    return count, stream.bytes_read


def _start_recapture(restore: Restore, volume: str, *, held: bool = False) -> HelperProcess:
    return start_capture(
        restore.engine,
        restore.helper,
        volume,
        run_id=restore.run_id,
        trusted_xattrs=restore.target.trusted_xattrs,
        held=held,
    )


def _paired(stream: MemberStream, items: Iterable[Selected], volume: str) -> Iterator[tuple[StreamMember, Selected]]:
    expected = iter(items)
    for found in stream:
        item = next(expected, None)
        if item is None or member_path(found.frame.name) != item.path:
            raise _Unpaired(f"volume {volume}: it changed while it was verified", hint="Run the restore again.")
        yield found, item
    left = next(expected, None)
    if left is not None:
        raise _Unpaired(
            f"volume {volume}: {display_path(left.path)} could not be read back", hint="Run the restore again."
        )


def _compare_paths(found: Iterator[bytes], expected: Iterator[bytes], volume: str) -> None:
    for path in expected:
        here = next(found, None)
        if here != path:
            what = "is missing" if here is None or here > path else "was not restored by drkit but is there"
            wrong = path if here is None or here > path else here
            raise IntegrityError(
                f"volume {volume}: {display_path(wrong)} {what}",
                hint="Remove the volume and run the restore again.",
                object_name=display_path(wrong),
            )
    extra = next(found, None)
    if extra is not None:
        raise IntegrityError(
            f"volume {volume}: {display_path(extra)} was not restored by drkit but is there",
            hint="Remove the volume and run the restore again.",
            object_name=display_path(extra),
        )


def _check_end(process: HelperProcess, stream: MemberStream, volume: str) -> None:
    end = process.finish()
    messages = classify_tar_stderr(end.stderr, truncated=end.stderr_truncated)
    if not stream.ended or end.code or messages.unknown or messages.torn or messages.vanished:
        raise IntegrityError(
            f"volume {volume}: reading the restored data back failed: {end.describe()}",
            hint="Remove the volume and run the restore again.",
        )


def _compare_meaning(restore: Restore, volume: str, items: list[Selected]) -> None:
    """Compare members whose bytes differ by what they mean. Raises IntegrityError for real differences."""
    wrong: list[str] = []
    with _start_recapture(restore, volume) as process:
        read_scan(process.readinto, Patterns([]), full=restore.helper.full)
        with requested(process, (item.path for item in items)) as readinto:
            stream = MemberStream(readinto, restore.member_key, split=True)
            for found, item in _paired(stream, items, volume):
                recorded = _described(restore, item.member)._replace(path=item.path, leader=item.leader)
                fields = differences(recorded, describe(found))
                if fields:
                    wrong.append(f"{display_path(item.path)} ({', '.join(fields)})")
        _check_end(process, stream, volume)
    if wrong:
        named = "; ".join(wrong[:_MISMATCHES_NAMED])
        raise IntegrityError(
            f"volume {volume}: {len(wrong)} restored files differ from the snapshot: {named}",
            hint="Remove the volume, run drkit verify, and run the restore again.",
            object_name=wrong[0],
        )


def _described(restore: Restore, member: Member) -> Description:
    pieces: Iterator[bytes | memoryview] = chain(restore.reader.extents([member]), [END_OF_ARCHIVE])
    stream = MemberStream(iterator_readinto(pieces), restore.member_key, split=True)
    return describe(next(iter(stream)))
