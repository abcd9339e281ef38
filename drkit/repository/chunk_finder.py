"""Finding chunks by the index, fetching and opening them, also while a prune moves them to other packs."""

from __future__ import annotations

import threading
from typing import Protocol

from drkit.errors import IntegrityError, ObjectNotFound
from drkit.repository.format.packs import pack_key
from drkit.repository.index import Location
from drkit.repository.repository import Repository


class GetRange(Protocol):
    """Reads `length` bytes at `offset` of an object, as `Storage.get` does."""

    def __call__(self, key: str, offset: int, length: int) -> bytes: ...


class ChunkFinder:
    """Finds and reads chunks of one repository. Safe to use from several threads."""

    def __init__(self, repository: Repository, get: GetRange | None = None) -> None:
        """`get` reads packs in place of the repository's storage."""
        self._repository = repository
        self._get = get or repository.storage.get
        self._reloading = threading.Lock()
        self._lost: set[bytes] = set()

    def locate(self, chunk_id: bytes, *, needed_by: str = "") -> Location:
        """Return where a chunk lies. Raises IntegrityError if no index object and no pack knows it."""
        location = self._repository.index.get(chunk_id) or self._repository.complete_index().get(chunk_id)
        if location is None:
            name = f"chunk {chunk_id.hex()}"
            needed = f" that {needed_by} needs" if needed_by else ""
            raise IntegrityError(
                f"{name}{needed} is in no index and no pack", hint="Run drkit check.", object_name=name
            )
        return location

    def read(self, chunk_id: bytes, *, needed_by: str = "") -> bytes:
        """Return one chunk. Raises IntegrityError naming the pack, or what else is missing or damaged."""
        location, sealed = self.sealed(chunk_id, self.locate(chunk_id, needed_by=needed_by))
        return open_chunk(self._repository, chunk_id, location, sealed)

    def sealed(self, chunk_id: bytes, location: Location) -> tuple[Location, bytes]:
        """Return the sealed bytes of a chunk, and where they lie now: elsewhere, if a prune has moved the chunk.

        Raises IntegrityError naming the pack when that is missing or too short.
        """
        try:
            return location, self._range(location)
        except ObjectNotFound:
            with self._reloading:
                # Once for a pack, not for each of its chunks; a long restore may meet several prunes.
                if location.pack_id not in self._lost:
                    self._repository.reload_index()
                    self._lost.add(location.pack_id)
        moved = self.locate(chunk_id)
        try:
            return moved, self._range(moved)
        except ObjectNotFound:
            raise missing_pack(moved.pack_id) from None

    def _range(self, location: Location) -> bytes:
        return self._get(pack_key(location.pack_id), location.offset, location.sealed_size)


def get_chunk(repository: Repository, chunk_id: bytes, location: Location) -> bytes:
    """Return the chunk at `location`. Raises IntegrityError naming the pack when that is missing or damaged."""
    try:
        sealed = repository.storage.get(pack_key(location.pack_id), location.offset, location.sealed_size)
    except ObjectNotFound:
        raise missing_pack(location.pack_id) from None
    return open_chunk(repository, chunk_id, location, sealed)


def open_chunk(repository: Repository, chunk_id: bytes, location: Location, sealed: bytes | memoryview) -> bytes:
    """Open the sealed bytes from `location`. Raises IntegrityError naming the pack, or the key if that is damaged."""
    try:
        return repository.chunks.open(chunk_id, sealed, location.key_id, location.size)
    except IntegrityError as error:
        if error.object_name:  # the key is damaged, not the pack
            raise
        key = pack_key(location.pack_id)
        raise IntegrityError(f"{key}: {error.message}", hint="Run drkit verify.", object_name=key) from None


def missing_pack(pack_id: bytes) -> IntegrityError:
    key = pack_key(pack_id)
    return IntegrityError(f"{key} is missing", hint="Run drkit check.", object_name=key)
