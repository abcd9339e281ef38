"""Copying snapshots into a mirror: packs are read whole and checked, and chunks that the mirror lacks are sent, sealed.

All trees are read first, so that a pack is read once, however many snapshots need something in it. Each snapshot is a
run of its own in the mirror and follows the commit protocol: its session and its record have the same run id.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from drkit.errors import IntegrityError, ObjectNotFound
from drkit.events import LOGGED, Events
from drkit.repository.chunk_finder import ChunkFinder, missing_pack
from drkit.repository.commit.records import get_payload
from drkit.repository.format.packs import directory_of, pack_key
from drkit.repository.format.record import copied_payload
from drkit.repository.format.sealing import random_bytes
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX, Snapshot, stored_trees, tree_chunk_ids
from drkit.repository.format.tree import EXTENT
from drkit.repository.keys.wraps import TREE_KEY_ID
from drkit.repository.mirror.mirror import KeyCopier
from drkit.repository.pack_reader import PACKS_AHEAD, get_pack
from drkit.repository.repository import Repository
from drkit.repository.tree_walker import Stretch, TreeWalker
from drkit.repository.writer import RunWriter
from drkit.tuning import keep_freed_memory


class Transfer:
    """One run of copy: `plan` every snapshot, then `copy` each.

    Holds the indexes of both sides and the names of all needed chunks, about 600 bytes for each chunk, and up to three
    packs besides those of the writer.
    """

    def __init__(self, source: Repository, mirror: Repository, *, host: str, events: Events = LOGGED) -> None:
        keep_freed_memory()
        self._source, self._mirror = source, mirror
        self._host, self._events = host, events
        self._needs = _Needs(source)
        self._keys = KeyCopier(source, mirror.storage)
        self._damaged: dict[bytes, IntegrityError] = {}
        self.bytes_sent = 0
        """Bytes of sealed chunks."""
        self.damage: dict[str, IntegrityError] = {}
        """Index objects of the mirror that could not be read, by key: what only they list was sent again."""

    def plan(self, snapshot: Snapshot) -> None:
        """Read the snapshot's trees. Raises IntegrityError for damage that makes a copy impossible."""
        self._needs.add(snapshot)

    def copy(self, snapshot: Snapshot) -> Snapshot:
        """Send what the mirror lacks, and commit. On return the copy exists; returns its record.

        Raises IntegrityError for a damaged pack or key of the source: nothing of it was sent, and what was sent before
        serves other snapshots; likewise for a mark of the mirror that does not open. Raises RepositoryLocked when a
        prune of the mirror has fenced the run.
        """
        original = get_payload(self._source.storage, self._source.objects, SNAPSHOT_PREFIX + snapshot.id)
        record = copied(snapshot, random_bytes(4))
        with RunWriter(self._mirror, record.id, (), host=self._host, verb="copy", events=self._events) as writer:
            if writer.unreadable_mark is not None:
                raise writer.unreadable_mark
            self.damage |= {error.object_name: error for error in writer.damage}
            try:
                self._send(snapshot, writer)
            except IntegrityError:
                writer.keep()
                raise
            writer.commit(record, copied_payload(original, record.id, record.via))
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
                        reading.append((pack_id, pool.submit(get_pack, self._source.storage, pack_id)))
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

    def _take(self, pack_id: bytes, body: memoryview, writer: RunWriter) -> None:
        """Send every chunk of a pack that any planned snapshot needs, in the order of the pack."""
        needed = self._needs.chunks[pack_id]
        entries = [entry for entry in directory_of(self._source.objects, pack_id, body) if entry.chunk_id in needed]
        if len(entries) < len(needed):
            key = pack_key(pack_id)
            raise IntegrityError(f"{key} does not hold what the index says", object_name=key)
        for entry in entries:
            if writer.put_sealed(entry, body[entry.offset : entry.offset + entry.sealed_size]):
                self.bytes_sent += entry.sealed_size
                self._events.progress("copy", entry.sealed_size)


def copied(snapshot: Snapshot, random: bytes) -> Snapshot:
    """Return what the record of a copy tells. It is a run of its own, whose id sorts like that of the original."""
    run_id = f"{snapshot.original.partition('-')[0]}-{random.hex()}"
    via = [*snapshot.via, snapshot.id] if snapshot.copy_of else []
    return replace(snapshot, id=run_id, copy_of=snapshot.original, via=via)


class _Needs:
    """Which packs of the source each snapshot needs, and which chunks of each pack any snapshot needs.

    Each snapshot counts as needing all of these chunks in its packs. Those are a few too many, but no snapshot needs a
    list of its own.
    """

    def __init__(self, source: Repository) -> None:
        self._source = source
        self._finder = ChunkFinder(source)
        self._walker = TreeWalker(lambda chunk_id: self._finder.read(chunk_id, needed_by="a tree"))
        self._stretches: dict[Stretch, tuple[bytes, ...]] = {}
        self._packs: dict[str, list[bytes]] = {}
        self._keys: dict[bytes, set[bytes]] = {}
        self._moved: dict[bytes, list[bytes]] = {}
        self.chunks: dict[bytes, set[bytes]] = {}
        """By pack."""

    def add(self, snapshot: Snapshot) -> None:
        packs: dict[bytes, None] = {}
        for target in stored_trees(snapshot):
            name = f"{target.title} in snapshot {snapshot.id}"
            tree = tuple(tree_chunk_ids(target))
            packs |= dict.fromkeys(self._note(tree, name))
            for stretch, extents in self._walker.stretches(name, tree):
                if extents is not None:
                    found = tuple(dict.fromkeys(self._note(_chunk_ids(extents), name)))
                    if stretch is not None:
                        self._stretches[stretch] = found
                else:
                    assert stretch is not None  # only remembered stretches are skipped
                    found = self._stretches[stretch]
                packs |= dict.fromkeys(found)
        self._packs[snapshot.id] = list(packs)

    def packs(self, snapshot: Snapshot) -> list[bytes]:
        """The packs that a snapshot needs, in the order of its trees."""
        return list(dict.fromkeys(self._now(self._packs[snapshot.id])))

    def key_ids(self, packs: Iterable[bytes]) -> set[bytes]:
        """The data keys of the needed chunks in these packs."""
        return set().union(*(self._keys[pack_id] for pack_id in packs)) - {TREE_KEY_ID}

    def look_again(self, pack_id: bytes) -> list[bytes]:
        """Look up in a fresh index where the chunks of a pack that is gone lie now; return those packs.

        Raises IntegrityError if the index still places them in that pack.
        """
        self._source.reload_index()
        lost = self.chunks[pack_id]
        places = list(dict.fromkeys(self._note(lost, pack_key(pack_id))))
        if pack_id in places:
            raise missing_pack(pack_id)
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
        """Note that `name` needs these chunks; yield the pack of each."""
        for chunk_id in chunk_ids:
            location = self._finder.locate(chunk_id, needed_by=name)
            self.chunks.setdefault(location.pack_id, set()).add(chunk_id)
            self._keys.setdefault(location.pack_id, set()).add(location.key_id)
            yield location.pack_id


def _chunk_ids(extents: Iterable[bytes]) -> Iterator[bytes]:
    for packed in extents:
        for start in range(0, len(packed), EXTENT.size):
            yield packed[start : start + 32]
