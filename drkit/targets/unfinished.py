"""Removing a volume that a restore made and did not finish: only as long as it holds nothing else.

Between a kill and the next run, or behind the back of a restore that fails, somebody may have begun to use the volume.
So nobody may mount it, and it must hold a part of what the restore was writing, and nothing else: every path is one of
the snapshot's, with the recorded type, size and mtime. tar sets these when it has written a file. One file it may have
left in the middle: that one holds the beginning of what is recorded.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import IO, cast

from drkit.engine import containers, volumes
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.launch import remove_helpers
from drkit.engine.helper.reading import start_capture
from drkit.errors import DrkitError, counted
from drkit.events import noted_if_slow
from drkit.host.restore_journal import RestoreNote
from drkit.pipeline.listing import requested
from drkit.pipeline.readings import reading_back
from drkit.pipeline.scan import Entry, Scan, read_scan
from drkit.pipeline.select import Patterns
from drkit.pipeline.selection import Selected, select_paths, selected_members
from drkit.pipeline.stream import ReadInto, iterator_readinto
from drkit.pipeline.tar.frames import END_OF_ARCHIVE
from drkit.repository.format.names import display_path
from drkit.repository.format.snapshot import Target
from drkit.repository.reader import ChunkReader
from drkit.targets.base import Restoring

LOST_AND_FOUND = b"lost+found"
_COMPARED = 1 << 20


class LeftAlone(DrkitError):
    """The volume holds, or serves, what the restore did not make; it is as it was."""


def remove_unfinished(
    restoring: Restoring, helper: HelperImage, volume: str, note: RestoreNote, target: Target | None
) -> None:
    """Remove the volume of the restore `note`, which wrote `target`; nothing if there is none any more.

    `target` is None where the snapshot is gone. Raises LeftAlone for a volume that may hold anything else.
    """
    engine = restoring.engine
    with noted_if_slow(engine.events, f"volume {volume}: waiting for the helpers of the restore to end"):
        remove_helpers(engine, note.restore_id, note.helper or helper.image_id)
    there = volumes.inspect(engine, volume)
    if there is None:
        return
    if not volumes.is_restored(there, note.restore_id):
        raise LeftAlone(f"volume {volume} is another one than the restore made", hint=_hint(volume))
    users = sorted(map(containers.name_of, containers.find_users(engine, volume, str(there.get("Mountpoint") or ""))))
    if users:
        raise LeftAlone(
            f"volume {volume}: container {users[0]} mounts it",
            hint=f"If nothing in it is needed: docker rm {users[0]}, then docker volume rm {volume}.",
        )
    found = _what_else(restoring, helper, volume, note, target)
    if found:
        raise LeftAlone(f"volume {volume}: {found}", hint=_hint(volume))
    with noted_if_slow(engine.events, f"volume {volume}: waiting for the engine to remove it"):
        volumes.remove_restored(engine, volume, restore_id=note.restore_id)


def _hint(volume: str) -> str:
    return f"docker volume inspect {volume} shows where its files are. If none is needed: docker volume rm {volume}."


def _what_else(
    restoring: Restoring, helper: HelperImage, volume: str, note: RestoreNote, target: Target | None
) -> str | None:
    """Say what is in a volume beside what the restore wrote; None if there is nothing else."""
    what = f"volume {volume}"
    capture = partial(start_capture, restoring.engine, helper, volume, run_id=note.restore_id)
    with capture() as process:
        scan = read_scan(process.readinto, Patterns([]), what=what, full=helper.full)
        if scan.sockets:
            return f"{scan.sockets[0]} is not from the snapshot"
        if len(scan) == 1:
            return None
        if target is None:
            return f"it holds {counted(len(scan) - 1, 'path')}, and snapshot {note.snapshot or 'of it'} cannot be asked"
        if not helper.full:
            return "this helper cannot tell what in it is from the snapshot"
        with ChunkReader(restoring.repository) as reader:
            selection = select_paths(reader, target, note.paths) if note.paths else None
            odd = list(_not_as_recorded(scan, selected_members(lambda: reader.members(target), selection)))
            unknown = [entry for entry, item in odd if item is None]
            if unknown:
                return f"{display_path(unknown[0].path)} is not from the snapshot"
            if len(odd) > 1:
                return f"{display_path(odd[1][0].path)} was written after the restore"
            for entry, item in odd:
                assert item is not None
                with requested(process, [entry.path], reading_back(scan)) as readinto:
                    pieces: Iterator[bytes | memoryview] = chain(reader.extents([item.member]), [END_OF_ARCHIVE])
                    if not _is_beginning(readinto, iterator_readinto(pieces)):
                        process.abort()  # its tar still writes
                        return f"{display_path(entry.path)} was written after the restore"
    return None


def _not_as_recorded(scan: Scan, items: Iterable[Selected]) -> Iterator[tuple[Entry, Selected | None]]:
    """Yield what differs from the snapshot, with None if it cannot be the snapshot's at all. Merge-joins the two."""
    left = iter(items)
    item = next(left, None)
    for entry in scan:
        while item is not None and item.path < entry.path:
            item = next(left, None)
        type_, mode, uid, _, size, mtime = entry.stat.split(b" ")[:6]
        if not entry.path or (entry.path == LOST_AND_FOUND and (type_, uid) == (b"d", b"0")):
            continue
        if item is None or item.path != entry.path or not item.member.stat:
            yield entry, None
            continue
        recorded = item.member.stat.split(b" ")
        if type_ == recorded[0] == b"d" or (type_, size, mtime) == (recorded[0], recorded[4], recorded[5]):
            continue
        if (type_, mode, size) == (b"f", b"0", b"0"):
            continue  # what tar puts in the place of some links until its end: it holds nothing
        possible = type_ == recorded[0] == b"f" and int(size) <= int(recorded[4])
        yield entry, item if possible else None


def _is_beginning(found: ReadInto, recorded: ReadInto) -> bool:
    """Whether the content of the one file in a tar stream is what that in another one begins with."""
    try:
        with _archive(found) as first, _archive(recorded) as second:
            here, there = (_content(archive) for archive in (first, second))
            while piece := here.read(_COMPARED):
                if piece != there.read(len(piece)):
                    return False
            return True
    except tarfile.TarError:
        return False


def _archive(readinto: ReadInto) -> tarfile.TarFile:
    return tarfile.open(fileobj=cast("IO[bytes]", io.BufferedReader(_Readable(readinto))), mode="r|")


def _content(archive: tarfile.TarFile) -> IO[bytes]:
    member = archive.next()
    file = archive.extractfile(member) if member is not None else None
    if file is None:
        raise tarfile.ReadError("it holds no file")
    return file


class _Readable(io.RawIOBase):
    def __init__(self, readinto: ReadInto) -> None:
        super().__init__()
        self._readinto = readinto

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        return self._readinto(memoryview(buffer).cast("B"))  # type: ignore[arg-type]
