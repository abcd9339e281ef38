"""What packs say themselves that they hold. Their directories count where the index lies; each is read once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping

from drkit.errors import IntegrityError, ObjectNotFound
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.packs import ENTRY, Entry, pack_key
from drkit.repository.index import PackedListing, PackListing
from drkit.repository.pack_reader import read_directories, stored_packs
from drkit.storage.base import Storage


class Directories:
    """The directories of the packs in a storage, read as they are asked for. Safe to use from several threads.

    Takes 60 bytes for each chunk in them, and 200 more once all were searched.
    """

    def __init__(self, storage: Storage, sealer: ObjectSealer) -> None:
        self._storage = storage
        self._sealer = sealer
        self._lock = threading.RLock()
        self._read: dict[bytes, PackedListing | None] = {}
        self._packs: dict[bytes, list[bytes]] = {}
        """By chunk, once all directories were searched."""
        self._searched: set[bytes] = set()
        self._all = False

    def of(self, pack_id: bytes) -> PackedListing | None:
        """Return what a pack says that it holds; None for one that is gone, or whose directory is damaged."""
        with self._lock:
            if pack_id not in self._read:
                try:
                    self.read({pack_id: self._storage.stat(pack_key(pack_id)).size})
                except ObjectNotFound:
                    self._read[pack_id] = None
            return self._read[pack_id]

    def read(self, sizes: Mapping[bytes, int]) -> None:
        """Read the directories of these packs, of which the sizes are known, unless that was done before."""
        with self._lock:
            wanted = {pack_id: size for pack_id, size in sizes.items() if pack_id not in self._read}
            self._read |= dict.fromkeys(wanted)
            for pack_id, found in read_directories(self._storage, self._sealer, wanted):
                if not isinstance(found, IntegrityError):
                    self._read[pack_id] = PackListing(pack_id, wanted[pack_id], found).packed()

    def holders(self, chunk_id: bytes) -> list[PackedListing]:
        """Return every pack whose directory lists the chunk. The first call reads the directories of all packs."""
        with self._lock:
            self._search_all()
            return list(self.some(self._packs.get(chunk_id, ())))

    def some(self, pack_ids: Iterable[bytes]) -> Iterator[PackedListing]:
        """Yield what these packs say, without those that say nothing."""
        for pack_id in pack_ids:
            if (pack := self.of(pack_id)) is not None:
                yield pack

    def expect_changes(self) -> None:
        """A prune has moved chunks: the next call of `holders` also reads the directories of packs that are new."""
        self._all = False

    def _search_all(self) -> None:
        if self._all:
            return
        self.read(stored_packs(self._storage))
        for pack_id, pack in self._read.items():
            if pack is not None and pack_id not in self._searched:
                for chunk_id, *_ in ENTRY.iter_unpack(pack.entries):
                    self._packs.setdefault(chunk_id, []).append(pack_id)
            self._searched.add(pack_id)
        self._all = True


def entries_of(pack: PackedListing, chunk_id: bytes) -> list[Entry]:
    """Return the entries of a chunk in a pack: none if it is not there, and seldom more than one."""
    return [Entry(*fields) for fields in ENTRY.iter_unpack(pack.entries) if fields[0] == chunk_id]
