"""`drkit export`: a target as a plain tar, for any tool that reads one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from drkit.catalog.find import Scope, find_tree
from drkit.errors import DrkitError, IntegrityError, UsageError, reason
from drkit.events import Warned
from drkit.operations.context import Context
from drkit.pipeline.extract import raw_stream
from drkit.pipeline.selection import Selected, selected_members
from drkit.pipeline.stream import MemberStream, iterator_readinto
from drkit.repository.format.snapshot import Snapshot, Target
from drkit.repository.holders.custody import require_identity
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository

Buffer = bytes | memoryview


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

    A file is written under another name and renamed when it is whole. An existing file is never overwritten.
    """
    snapshot, target = find_tree(context.repository, reference, kind, name, scope, events=context.events)
    context.warn_of_newer()
    context.warn_of_damaged_records()
    if isinstance(output, Path):
        files, size = _write_file(context.repository, target, output)
    else:
        files, size = write_tar(context.repository, target, output)
    context.warn_of_damage()
    return ExportResult(snapshot, files, size, output if isinstance(output, Path) else None, context.warnings)


def _write_file(repository: Repository, target: Target, path: Path) -> tuple[int, int]:
    unfinished = path.with_name(f".{path.name}.unfinished")
    if path.exists():
        raise UsageError(f"{path} exists", hint="Remove it, or name another file.")
    try:
        with unfinished.open("wb") as file:
            counts = write_tar(repository, target, file.write)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except OSError as error:
        raise DrkitError(f"cannot write {path}: {reason(error)}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return counts


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
