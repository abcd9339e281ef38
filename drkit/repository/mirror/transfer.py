"""Copying snapshots into a mirror: whole packs are read and checked, the chunks that the mirror lacks move on, sealed.

All trees are read first, so that a pack is read once however many snapshots need something of it. Each snapshot is a
run of its own in the mirror and keeps to the commit protocol: the key that commits it is that of its session.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from drkit.errors import IntegrityError, ObjectNotFound
from drkit.repository.format.packs import check_pack_bytes, directory_of, pack_key
from drkit.repository.format.sealing import random_bytes
from drkit.repository.format.snapshot import Snapshot, copied, stored_trees, tree_chunk_ids
from drkit.repository.format.tree import EXTENT
from drkit.repository.index import Location
from drkit.repository.keys.wraps import TREE_KEY_ID
from drkit.repository.mirror.mirror import KeyCopier
from drkit.repository.repository import Repository
from drkit.repository.tree_walker import Step, TreeWalker
from drkit.repository.writer import RunWriter
from drkit.tuning import keep_freed_memory

PACKS_AHEAD = 2
"""Packs read while chunks of another one are taken; each holds its 32 MiB in memory."""


class Transfer:
    """One run of copy: `plan` every snapshot, then `copy` each.

    Holds the index of both sides and the names of all chunks that are needed, about 600 bytes a chunk, and up to three
    packs beside those of the writer.
    """

    def __init__(
        self, source: Repository, mirror: Repository, *, host: str, progress: Callable[[int], None] = lambda count: None
    ) -> None:
        keep_freed_memory()
        self._source, self._mirror = source, mirror
        self._host, self._progress = host, progress
        self._needs = _Needs(source)
        self._keys = KeyCopier(source, mirror.storage)
        self._damaged: dict[bytes, IntegrityError] = {}
        self.bytes_sent = 0
        """Bytes of sealed chunks."""
        self.damage: dict[str, IntegrityError] = {}
        """Index objects of the mirror that could not be read, by key: what they list was sent again."""

    def plan(self, snapshot: Snapshot) -> None:
        """Read the snapshot's trees. Raises IntegrityError for damage that keeps it from being copied."""
        self._needs.add(snapshot)

    def copy(self, snapshot: Snapshot) -> Snapshot:
        """Send what the mirror lacks and commit; return the record of the copy, which then exists.

        Raises IntegrityError for a pack or key of the source that is damaged: nothing of it was taken, and what was
        sent before serves the other snapshots. RepositoryLocked when a prune of the mirror fenced the run.
        """
        record = copied(snapshot, random_bytes(4))
        with RunWriter(self._mirror, record.id, (), host=self._host, verb="copy") as writer:
            self.damage |= {error.object_name: error for error in writer.damage}
            try:
                self._send(snapshot, writer)
            except IntegrityError:
                writer.keep()
                raise
            writer.commit(record)
        return record

    def _send(self, snapshot: Snapshot, writer: RunWriter) -> None:
        packs = self._needs.packs(snapshot)
        for pack_id in packs:
            if pack_id in self._damaged:
                raise self._damaged[pack_id]
        for key_id in self._needs.key_ids(packs):
            self._keys.copy_key(key_id, writer.is_condemned)
        waiting = deque(packs)
        reading: deque[tuple[bytes, Future[bytes]]] = deque()
        with ThreadPoolExecutor(PACKS_AHEAD, thread_name_prefix="drkit-copy") as pool:
            while waiting or reading:
                while waiting and len(reading) < PACKS_AHEAD:
                    pack_id = waiting.popleft()
                    if any(writer.chunk_size(chunk_id) is None for chunk_id in self._needs.chunks[pack_id]):
                        reading.append((pack_id, pool.submit(self._read, pack_id)))
                if not reading:
                    break
                pack_id, body = reading.popleft()
                try:
                    self._take(pack_id, memoryview(body.result()), writer)
                except ObjectNotFound:  # a prune of the source moved what is needed of it
                    waiting.extend(self._needs.look_again(pack_id))
                except IntegrityError as error:
                    self._damaged[pack_id] = error
                    raise
        writer.flush()
        for pack_id in self._needs.packs(snapshot):
            writer.use(self._needs.chunks[pack_id])

    def _read(self, pack_id: bytes) -> bytes:
        body = self._source.storage.get(pack_key(pack_id))
        check_pack_bytes(pack_id, body)
        return body

    def _take(self, pack_id: bytes, body: memoryview, writer: RunWriter) -> None:
        """Put what any snapshot of this run needs, in the order of the pack."""
        needed = self._needs.chunks[pack_id]
        entries = [entry for entry in directory_of(self._source.objects, pack_id, body) if entry.chunk_id in needed]
        if len(entries) < len(needed):
            key = pack_key(pack_id)
            raise IntegrityError(f"{key} does not hold what the index says", object_name=key)
        for entry in entries:
            if writer.put_sealed(entry, body[entry.offset : entry.offset + entry.sealed_size]):
                self.bytes_sent += entry.sealed_size
                self._progress(entry.sealed_size)


class _Needs:
    """Which packs of the source each snapshot needs, and which chunks of each pack any of them does.

    A snapshot counts as needing all of these chunks in its packs: a few too many, and no list of its own for each.
    """

    def __init__(self, source: Repository) -> None:
        self._source = source
        self._walker = TreeWalker(self._read_tree_chunk)
        self._steps: dict[Step, tuple[bytes, ...]] = {}
        self._packs: dict[str, list[bytes]] = {}
        self._keys: dict[bytes, set[bytes]] = {}
        self._moved: dict[bytes, list[bytes]] = {}
        self._reloading = threading.Lock()
        self.chunks: dict[bytes, set[bytes]] = {}
        """By pack."""

    def add(self, snapshot: Snapshot) -> None:
        packs: dict[bytes, None] = {}
        for target in stored_trees(snapshot):
            name = f"{target.kind} {target.name} in snapshot {snapshot.id}"
            tree = tuple(tree_chunk_ids(target))
            packs |= dict.fromkeys(self._note(tree, name))
            for step, extents in self._walker.stretches(name, tree):
                if extents is not None:
                    found = tuple(dict.fromkeys(self._note(_chunk_ids(extents), name)))
                    if step is not None:
                        self._steps[step] = found
                else:
                    assert step is not None  # only what is remembered is passed over
                    found = self._steps[step]
                packs |= dict.fromkeys(found)
        self._packs[snapshot.id] = list(packs)

    def packs(self, snapshot: Snapshot) -> list[bytes]:
        """The packs a snapshot needs, in the order of its trees."""
        return list(dict.fromkeys(self._now(self._packs[snapshot.id])))

    def key_ids(self, packs: Iterable[bytes]) -> set[bytes]:
        """The data keys of what is needed in these packs."""
        return set().union(*(self._keys[pack_id] for pack_id in packs)) - {TREE_KEY_ID}

    def look_again(self, pack_id: bytes) -> list[bytes]:
        """Find in a fresh index where the chunks of a pack lie that is gone. Raises IntegrityError if nowhere else."""
        self._source.reload_index()
        lost = self.chunks[pack_id]
        places = list(dict.fromkeys(self._note(lost, pack_key(pack_id))))
        if pack_id in places:
            key = pack_key(pack_id)
            raise IntegrityError(f"{key} is missing", hint="Run drkit check.", object_name=key)
        del self.chunks[pack_id], self._keys[pack_id]
        self._moved[pack_id] = places
        return places

    def _now(self, packs: Iterable[bytes]) -> Iterator[bytes]:
        for pack_id in packs:
            if pack_id in self._moved:
                yield from self._now(self._moved[pack_id])
            else:
                yield pack_id

    def _note(self, chunk_ids: Iterable[bytes], name: str) -> Iterator[bytes]:
        """Note that chunks are needed; yield the pack of each."""
        for chunk_id in chunk_ids:
            location = self._locate(chunk_id, name)
            self.chunks.setdefault(location.pack_id, set()).add(chunk_id)
            self._keys.setdefault(location.pack_id, set()).add(location.key_id)
            yield location.pack_id

    def _locate(self, chunk_id: bytes, name: str) -> Location:
        location = self._source.index.get(chunk_id) or self._source.salvage_index().get(chunk_id)
        if location is None:
            chunk = f"chunk {chunk_id.hex()}"
            raise IntegrityError(
                f"{chunk} that {name} needs is in no index and no pack", hint="Run drkit check.", object_name=chunk
            )
        return location

    def _read_tree_chunk(self, chunk_id: bytes) -> bytes:
        location = self._locate(chunk_id, "a tree")
        try:
            sealed = self._sealed(location)
        except ObjectNotFound:
            with self._reloading:
                self._source.reload_index()
                location = self._locate(chunk_id, "a tree")
            try:
                sealed = self._sealed(location)
            except ObjectNotFound:
                key = pack_key(location.pack_id)
                raise IntegrityError(f"{key} is missing", hint="Run drkit check.", object_name=key) from None
        try:
            return self._source.chunks.open(chunk_id, sealed, location.key_id, location.size)
        except IntegrityError as error:
            key = pack_key(location.pack_id)
            raise IntegrityError(f"{key}: {error.message}", hint="Run drkit check.", object_name=key) from None

    def _sealed(self, location: Location) -> bytes:
        return self._source.storage.get(pack_key(location.pack_id), location.offset, location.sealed_size)


def _chunk_ids(extents: Iterable[bytes]) -> Iterator[bytes]:
    for packed in extents:
        for start in range(0, len(packed), EXTENT.size):
            yield packed[start : start + 32]
