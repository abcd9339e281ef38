"""Moving sealed chunks out of packs that go. They are not opened, so the meta key is enough."""

from __future__ import annotations

from collections.abc import Set

from drkit.errors import IntegrityError
from drkit.events import Events
from drkit.repository.chunk_finder import wrong_contents
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.packs import PackBuilder, directory_of, pack_buffer, pack_key
from drkit.repository.index import PackListing
from drkit.repository.pack_reader import get_pack
from drkit.storage.acknowledged import put_seen
from drkit.storage.base import Storage


class Repacker:
    """Collects chunks into new packs of the same kind, stores each pack when it is full, and reads it back.

    Holds two packs that are being filled and one that is read: about 100 MB.
    """

    def __init__(self, storage: Storage, sealer: ObjectSealer, events: Events) -> None:
        self._storage = storage
        self._sealer = sealer
        self._events = events
        self._builders: dict[bytes, PackBuilder] = {}
        self.stored: list[PackListing] = []

    def move(self, pack_id: bytes, chunk_ids: Set[bytes]) -> None:
        """Put these chunks of a pack into new packs, as the pack's own directory tells.

        Raises IntegrityError before anything is moved when the pack's bytes are not those it was named after (a new
        name would hide the damage), or when it does not hold all of these chunks.
        """
        body = get_pack(self._storage, pack_id)
        view, magic = memoryview(body), body[:8]
        entries = [entry for entry in directory_of(self._sealer, pack_id, view) if entry.chunk_id in chunk_ids]
        if len({entry.chunk_id for entry in entries}) < len(chunk_ids):
            raise wrong_contents(pack_id)
        for entry in entries:
            sealed = view[entry.offset : entry.offset + entry.sealed_size]
            builder = self._builders.get(magic)
            if builder is not None and not builder.has_room(len(sealed)):
                self._store(self._builders.pop(magic))
                builder = None
            if builder is None:
                builder = self._builders[magic] = PackBuilder(magic, pack_buffer())
            builder.add(entry.chunk_id, entry.key_id, sealed, entry.size)
            if builder.full:
                self._store(self._builders.pop(magic))

    def finish(self) -> list[PackListing]:
        """Store what is left. Returns the new packs; each was read back and compared."""
        for magic in list(self._builders):
            self._store(self._builders.pop(magic))
        return self.stored

    def _store(self, builder: PackBuilder) -> None:
        pack_id = builder.finish(self._sealer)
        put_seen(self._storage, pack_key(pack_id), builder.body)
        if directory_of(self._sealer, pack_id, get_pack(self._storage, pack_id)) != builder.entries:
            key = pack_key(pack_id)
            raise IntegrityError(f"{key} does not read back as it was written", object_name=key)
        self.stored.append(PackListing(pack_id, builder.size, builder.entries))
        self._events.progress("prune", builder.size)
