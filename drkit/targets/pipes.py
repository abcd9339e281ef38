"""Between the kinds and the pipeline: captures of one run, and stored archives."""

from __future__ import annotations

from collections.abc import Iterator

from drkit.pipeline.capture import Capture
from drkit.pipeline.extract import raw_stream
from drkit.pipeline.selection import selected_members
from drkit.repository.format.snapshot import Target, parse_time
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.targets.base import Capturing


def capture_of(capturing: Capturing, target: Target) -> Capture:
    """Return what the pipeline needs to capture one target of a run."""
    started = parse_time(target.started) if target.started else capturing.now
    return Capture(
        capturing.engine,
        capturing.repository,
        capturing.reader,
        capturing.writer,
        target,
        started.timestamp(),
        capturing.events,
    )


def archive_of(repository: Repository, target: Target) -> Iterator[bytes]:
    """Yield a stored archive as it was captured."""
    with ChunkReader(repository) as reader:
        everything = selected_members(lambda: reader.members(target), None)
        yield from (bytes(piece) for piece in raw_stream(reader, everything))
