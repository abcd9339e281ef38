"""Between the kinds and the pipeline: captures of one run, the engine's descriptions, and stored archives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from drkit.errors import IntegrityError
from drkit.pipeline.documents import as_json, read_document, write_documents
from drkit.pipeline.extract import raw_stream
from drkit.pipeline.selection import selected_members
from drkit.pipeline.tar_capture import Capture
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
        capturing.salt,
    )


def describe(capturing: Capturing, target: Target, name: str, description: Mapping[str, Any]) -> None:
    """Store what the engine says of a target as its document. Raises CaptureFailed for one that is too large."""
    documents = {name: as_json(description)}
    member_key = capturing.repository.meta.member
    target.documents = write_documents(capturing.writer, member_key, capturing.salt, documents)


def description_of(repository: Repository, target: Target, name: str) -> dict[str, Any]:
    """Return what the engine said of a target. Raises IntegrityError, and AccessDenied without an identity."""
    with ChunkReader(repository) as reader:
        text = read_document(reader, repository.meta.member, target.documents, name, of=target.title)
    try:
        description = json.loads(text)
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise IntegrityError(f"document {name} of {target.title} is not a JSON object", object_name=name)
    return description


def archive_of(repository: Repository, target: Target) -> Iterator[bytes]:
    """Yield a stored archive as it was captured."""
    with ChunkReader(repository) as reader:
        everything = selected_members(lambda: reader.members(target), None)
        yield from (bytes(piece) for piece in raw_stream(reader, everything))
