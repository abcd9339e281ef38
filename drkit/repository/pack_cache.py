"""Packs that are read whole, once each, when the first of their chunks is asked for.

So verify compares every pack with its name, and every member with its digest, and reads the repository only once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from threading import BoundedSemaphore, Lock

from drkit.errors import IntegrityError
from drkit.events import Events
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.packs import pack_id_of
from drkit.repository.futures import result_of
from drkit.repository.pack_reader import PACKS_AHEAD, PacksRead, WholePack, read_pack, read_packs
from drkit.storage.base import Storage

HELD = 72 * 1024 * 1024
"""Bytes of packs kept for more of their chunks: two full packs, or many small ones. Two more may be on their way.

Chunks that are asked for in the order in which they were stored need one or two packs at a time."""


class PackCache:
    """Serves ranges of packs out of whole packs. Safe to use from several threads.

    Each pack is fetched whole at most once. If it was dropped before its last chunk was asked for, that chunk is read
    by a range of its own, so the most that is read is each pack once and each chunk once.
    """

    def __init__(self, storage: Storage, sealer: ObjectSealer) -> None:
        self._storage = storage
        self._sealer = sealer
        self._lock = Lock()
        self._fetches = BoundedSemaphore(PACKS_AHEAD)
        self._fetching: dict[bytes, Future[bytes]] = {}
        self._held: OrderedDict[bytes, bytes] = OrderedDict()
        self._held_bytes = 0
        self._asked: set[bytes] = set()
        self.read = PacksRead()
        """What the packs that were read whole so far have shown."""

    def get(self, key: str, offset: int, length: int) -> bytes:
        """Return a range of a pack, damaged or not, as `Storage.get` does."""
        pack_id = pack_id_of(key)
        body = self._body(pack_id) if pack_id is not None else None
        if body is None:
            return self._storage.get(key, offset, length)
        if offset + length > len(body):
            raise IntegrityError(f"object {key} is shorter than {offset + length} bytes", object_name=key)
        return body[offset : offset + length]

    def read_rest(self, pack_ids: Iterable[bytes], events: Events) -> None:
        """Read the packs of which no chunk was asked for."""
        for pack in read_packs(self._storage, self._sealer, [each for each in pack_ids if each not in self._asked]):
            self.read.add(pack)
            events.progress("verify", len(pack.body))

    def _body(self, pack_id: bytes) -> bytes | None:
        """Return a whole pack; None for one that was held before and had to go."""
        with self._lock:
            if pack_id in self._held:
                self._held.move_to_end(pack_id)
                return self._held[pack_id]
            coming = self._fetching.get(pack_id)
            if coming is None and pack_id in self._asked:
                return None
            if coming is None:
                self._asked.add(pack_id)
                self._fetching[pack_id] = Future()
        return result_of(coming) if coming is not None else self._fetch(pack_id)

    def _fetch(self, pack_id: bytes) -> bytes:
        future = self._fetching[pack_id]
        try:
            with self._fetches:
                pack = read_pack(self._storage, self._sealer, pack_id)
        except BaseException as error:
            with self._lock:
                del self._fetching[pack_id]
            future.set_exception(error)
            raise
        self._hold(pack)
        future.set_result(pack.body)
        return pack.body

    def _hold(self, pack: WholePack) -> None:
        with self._lock:
            self.read.add(pack)
            del self._fetching[pack.pack_id]
            self._held[pack.pack_id] = pack.body
            self._held_bytes += len(pack.body)
            while self._held_bytes > HELD and len(self._held) > 1:
                _, dropped = self._held.popitem(last=False)
                self._held_bytes -= len(dropped)
