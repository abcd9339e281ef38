"""`drkit export`: a target as a plain tar, for any tool that reads one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from drkit.errors import IntegrityError
from drkit.pipeline.extract import raw_stream
from drkit.pipeline.selection import Selected, selected_members
from drkit.pipeline.stream import MemberStream, iterator_readinto
from drkit.repository.format.snapshot import Target
from drkit.repository.holders.custody import require_identity
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository


def export(repository: Repository, target: Target, write: Callable[[bytes | memoryview], object]) -> tuple[int, int]:
    """Write a target's tar stream; return members and bytes. Every member is compared with its digest on its way out.

    Raises IntegrityError after the stream when a member was wrong: what was written must then not be used.
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
    if wrong or not stream.ended or count != target.files:
        raise IntegrityError(
            f"{target.kind} {target.name}: {wrong} members are damaged, {count} of {target.files} were written",
            hint="Run drkit verify; do not use the exported file.",
        )
    return count, stream.bytes_read
