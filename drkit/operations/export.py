"""`drkit export`: a target as a plain tar, for any tool that reads one."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from drkit.catalog.find import Scope, find_tree
from drkit.errors import DrkitError, IntegrityError, reason
from drkit.events import Warned
from drkit.host.private_file import new_file, require_new
from drkit.operations.context import Context
from drkit.pipeline.extract import raw_stream
from drkit.pipeline.selection import Selected, selected_members
from drkit.pipeline.stream import MemberStream, iterator_readinto
from drkit.repository.format.snapshot import Snapshot, Target
from drkit.repository.holders.custody import require_identity
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository

Buffer = bytes | memoryview

_DESCRIPTORS = (Path("/dev/fd"), Path("/proc/self/fd"))


@dataclass(frozen=True)
class ExportResult:
    """`output` is the file that was written, None for a stream of the caller's."""

    snapshot: Snapshot
    files: int
    bytes: int
    output: Path | None
    warnings: list[Warned] = field(default_factory=list)


def export(
    context: Context, reference: str, kind: str, name: str, scope: Scope, output: Path | Callable[[Buffer], object]
) -> ExportResult:
    """Write a target of any kind as a plain tar, to a file or piece by piece to a function.

    A file appears when it is whole, with mode 0600, see `new_file`. A pipe is written to as it is.
    Raises UsageError, before anything else, for whatever exists and is not a pipe of ours.
    """
    if isinstance(output, Path) and not _is_own_pipe(output):
        require_new(output)
    snapshot, target = find_tree(context.repository, reference, kind, name, scope, events=context.events)
    context.warn_of_newer()
    context.warn_of_damaged_records()
    if isinstance(output, Path):
        with _opened(output) as file:
            files, size = write_tar(context.repository, target, file.write)
    else:
        files, size = write_tar(context.repository, target, output)
    context.warn_of_damage()
    return ExportResult(snapshot, files, size, output if isinstance(output, Path) else None, context.warnings)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file, or the way into a pipe of our own. Raises DrkitError for what cannot be written."""
    if not _is_own_pipe(path):
        with new_file(path) as file:
            yield file
        return
    try:
        with path.open("wb") as pipe:
            yield pipe
    except OSError as error:
        raise DrkitError(f"cannot write {path}: {reason(error)}") from error


def _is_own_pipe(path: Path) -> bool:
    """Whether it is a FIFO that we made, or one of our own descriptors, as a shell's `>(command)` is.

    Whoever made the FIFO may be who reads the decrypted data from it.
    """
    try:
        status = path.stat() if path.parent in _DESCRIPTORS else path.lstat()
    except OSError:
        return False
    return stat.S_ISFIFO(status.st_mode) and status.st_uid == os.geteuid()


def write_tar(repository: Repository, target: Target, write: Callable[[Buffer], object]) -> tuple[int, int]:
    """Write a target's tar stream; return members and bytes. Every member is compared with its digest.

    Raises IntegrityError at the end of the stream if a member was wrong: then the output must not be used.
    """
    require_identity(repository, "exporting data")
    count = wrong = 0
    with ChunkReader(repository) as reader:

        def members() -> Iterator[Selected]:
            return selected_members(lambda: reader.members(target), None)

        def written() -> Iterator[bytes | memoryview]:
            for piece in raw_stream(reader, members()):
                write(piece)
                yield piece

        stream = MemberStream(iterator_readinto(written()), repository.meta.member)
        for found, item in zip(stream, members(), strict=False):
            count += 1
            wrong += found.digest != item.member.digest
    expected = target.files or count  # a tree that is no target's does not say how many it has
    if wrong or not stream.ended or count != expected:
        raise IntegrityError(
            f"{target.title}: {wrong} members are damaged, {count} of {expected} were written",
            hint="Run drkit verify; do not use the exported file.",
        )
    return count, stream.bytes_read
