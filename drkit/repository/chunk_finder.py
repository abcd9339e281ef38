"""Finding chunks by the index, fetching and opening them, also while a prune moves them to other packs.

The index is a copy, and may lie: a chunk that does not open where it says is looked for in the packs' own directories.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Protocol

from drkit.errors import AccessDenied, IntegrityError, ObjectNotFound
from drkit.repository.directories import entries_of
from drkit.repository.format.packs import pack_key
from drkit.repository.index import Location, PackedListing
from drkit.repository.keys.wraps import TREE_KEY_ID
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
        location = self._repository.index.get(chunk_id) or self._repository.look_in_packs(chunk_id)
        if location is None:
            name = f"chunk {chunk_id.hex()}"
            needed = f" that {needed_by} needs" if needed_by else ""
            raise IntegrityError(
                f"{name}{needed} is in no index and no pack", hint="Run drkit check.", object_name=name
            )
        return location

    def read(self, chunk_id: bytes, *, tree: bool = False, needed_by: str = "") -> bytes:
        """Return one chunk. Raises IntegrityError naming the pack, or what else is missing or damaged."""
        return self.open(chunk_id, self.locate(chunk_id, needed_by=needed_by), tree=tree)

    def open(
        self, chunk_id: bytes, location: Location, sealed: bytes | memoryview = b"", *, tree: bool = False
    ) -> bytes:
        """Return a chunk from its sealed bytes at `location`, which are fetched unless they are at hand.

        A chunk that a prune has moved is read where it lies now, and one that does not open there from wherever a
        pack's own directory lists it. One of a `tree` has the content that it is named after; of data that holds only
        where several packs list the chunk, since readers compare whole members. Raises IntegrityError naming the pack
        if it opens nowhere.
        """
        try:
            if not sealed:
                location, sealed = self._fetch(chunk_id, location)
            doubled = self._repository.index_is_read and bool(self._repository.index.other_packs(chunk_id))
            return open_chunk(self._repository, chunk_id, location, sealed, tree=tree, compare=doubled)
        except (IntegrityError, AccessDenied) as error:
            return self._read_elsewhere(chunk_id, location, error, tree=tree)

    def open_tree_at(self, chunk_id: bytes, location: Location) -> bytes:
        """As `open`, for a location that another reading of the index gave: whoever has that one looks again.

        Raises IntegrityError for a pack that is gone.
        """
        try:
            sealed = self._range(location)
        except ObjectNotFound:
            raise missing_pack(location.pack_id) from None
        except IntegrityError as error:
            return self._read_elsewhere(chunk_id, location, error, tree=True)
        return self.open(chunk_id, location, sealed, tree=True)

    def _fetch(self, chunk_id: bytes, location: Location) -> tuple[Location, bytes]:
        """Return the sealed bytes of a chunk, and where they lie now."""
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
        try:
            return self._get(pack_key(location.pack_id), location.offset, location.sealed_size)
        except IntegrityError as error:
            raise IntegrityError(error.message, hint="Run drkit check.", object_name=error.object_name) from error

    def _read_elsewhere(
        self, chunk_id: bytes, tried: Location, error: IntegrityError | AccessDenied, *, tree: bool
    ) -> bytes:
        own = self._repository.directories.of(tried.pack_id)
        if isinstance(error, AccessDenied) and own is not None and tried in _places(own, chunk_id):
            raise error  # nothing is wrong but the key
        seen = {tried}
        for pack in self._witnesses(chunk_id, own):
            for entry in entries_of(pack, chunk_id):
                location = Location(pack.pack_id, *entry[1:])
                if location in seen:
                    continue
                seen.add(location)
                try:
                    sealed = self._range(location)
                    data = open_chunk(self._repository, chunk_id, location, sealed, tree=tree, compare=True)
                except (IntegrityError, AccessDenied, ObjectNotFound):
                    continue  # if it opens nowhere, the first error is raised
                lying = own if own is not None and tried not in _places(own, chunk_id) else None
                self._repository.note_found_elsewhere(chunk_id, pack, entry, lying=lying, error=error)
                return data
        raise error

    def _witnesses(self, chunk_id: bytes, own: PackedListing | None) -> Iterator[PackedListing]:
        """Yield the directories that may list a chunk: the pack's own, those of packs that the index names too, all.

        Last comes what the index says of packs whose directories cannot be read.
        """
        repository = self._repository
        if own is not None:
            yield own
        if repository.index_is_read:
            yield from repository.directories.some(repository.index.other_packs(chunk_id))
        yield from repository.directories.holders(chunk_id)
        if repository.index_is_read:
            yield from repository.index.doubted


def _places(pack: PackedListing, chunk_id: bytes) -> list[Location]:
    return [Location(pack.pack_id, *entry[1:]) for entry in entries_of(pack, chunk_id)]


def open_chunk(
    repository: Repository,
    chunk_id: bytes,
    location: Location,
    sealed: bytes | memoryview,
    *,
    tree: bool = False,
    compare: bool = False,
) -> bytes:
    """Open the sealed bytes from `location`; `compare` the content with the chunk's name, and always do so for a tree.

    Whoever holds the meta key can seal another tree under the name of a chunk, which would hide what is needed. Raises
    IntegrityError naming the pack, or the key if that is damaged.
    """
    tree = tree or location.key_id == TREE_KEY_ID
    try:
        data = repository.chunks.open(chunk_id, sealed, location.key_id, location.size)
        if compare or tree:
            repository.chunks.check_name(chunk_id, data, tree=tree)
    except IntegrityError as error:
        if error.object_name:  # the key is damaged, not the pack
            raise
        key = pack_key(location.pack_id)
        raise IntegrityError(f"{key}: {error.message}", hint="Run drkit verify.", object_name=key) from None
    return data


def missing_pack(pack_id: bytes) -> IntegrityError:
    key = pack_key(pack_id)
    return IntegrityError(f"{key} is missing", hint="Run drkit check.", object_name=key)


def wrong_contents(pack_id: bytes) -> IntegrityError:
    key = pack_key(pack_id)
    return IntegrityError(f"{key} does not hold what the index says", hint="Run drkit repair index.", object_name=key)
