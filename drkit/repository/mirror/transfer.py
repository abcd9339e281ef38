"""Copying snapshots into a mirror: packs are read whole and checked, and chunks that the mirror lacks are sent, sealed.

All trees are read first, so that a pack is read once, however many snapshots need something in it. Each snapshot is a
run of its own in the mirror and follows the commit protocol: its session and its record have the same run id.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from drkit.errors import AccessDenied, IntegrityError, ObjectNotFound
from drkit.events import LOGGED, Events
from drkit.repository.chunk_finder import ChunkFinder, missing_pack, open_chunk, wrong_contents
from drkit.repository.commit.records import get_payload
from drkit.repository.directories import entries_of
from drkit.repository.format.packs import Entry, directory_of, pack_key
from drkit.repository.format.record import copied_payload
from drkit.repository.format.sealing import random_bytes
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX, Snapshot, stored_trees, tree_chunk_ids
from drkit.repository.format.tree import EXTENT
from drkit.repository.index import Location, PackedListing
from drkit.repository.keys.wraps import TREE_KEY_ID
from drkit.repository.mirror.mirror import KeyCopier
from drkit.repository.pack_reader import PACKS_AHEAD, get_pack
from drkit.repository.repository import Repository
from drkit.repository.tree_walker import Stretch, TreeWalker
from drkit.repository.writer import RunWriter
from drkit.storage.acknowledged import NotKept
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
            try:
                self._keys.copy_key(key_id, writer.is_condemned)
            except NotKept:
                raise
            except IntegrityError:
                continue  # the index may have invented this key; what is sent needs its own, see _take
        waiting = deque(packs)
        reading: deque[tuple[bytes, Future[bytes]]] = deque()
        with ThreadPoolExecutor(PACKS_AHEAD, thread_name_prefix="drkit-copy") as pool:
            while waiting or reading:
                while waiting and len(reading) < PACKS_AHEAD:
                    pack_id = waiting.popleft()
                    if self._wanted(pack_id, writer):
                        reading.append((pack_id, pool.submit(get_pack, self._source.storage, pack_id)))
                if not reading:
                    break
                pack_id, body = reading.popleft()
                try:
                    lacking = self._take(pack_id, memoryview(body.result()), writer)
                    damage = wrong_contents(pack_id)
                except ObjectNotFound:  # a prune of the source moved what is needed of it
                    waiting.extend(self._needs.look_again(pack_id))
                    continue
                except NotKept:  # by the mirror: nothing is wrong with the pack
                    raise
                except IntegrityError as error:
                    lacking, damage = self._wanted(pack_id, writer), error
                if lacking:
                    try:
                        waiting.extend(self._needs.look_elsewhere(pack_id, lacking, damage))
                    except IntegrityError as error:
                        self._damaged[pack_id] = error
                        raise
        writer.flush()
        for pack_id in self._needs.packs(snapshot):
            writer.use(self._needs.chunks[pack_id])

    def _wanted(self, pack_id: bytes, writer: RunWriter) -> set[bytes]:
        """The chunks of a pack that any planned snapshot needs and the mirror lacks."""
        return {chunk for chunk in self._needs.chunks.get(pack_id, ()) if writer.chunk_size(chunk) is None}

    def _take(self, pack_id: bytes, body: memoryview, writer: RunWriter) -> set[bytes]:
        """Send every chunk of a pack that any planned snapshot needs, in the order of the pack.

        Returns those that it does not hold after all. What it holds is told by its own directory, not by the index.
        """
        wanted = self._wanted(pack_id, writer)
        entries = [entry for entry in directory_of(self._source.objects, pack_id, body) if entry.chunk_id in wanted]
        entries = [entry for entry in entries if self._seems_good(pack_id, entry, body)]
        for key_id in {entry.key_id for entry in entries} - {TREE_KEY_ID}:
            self._keys.copy_key(key_id, writer.is_condemned)
        for entry in entries:
            if writer.put_sealed(entry, body[entry.offset : entry.offset + entry.sealed_size]):
                self.bytes_sent += entry.sealed_size
                self._events.progress("copy", entry.sealed_size)
        return wanted - {entry.chunk_id for entry in entries}

    def _seems_good(self, pack_id: bytes, entry: Entry, body: memoryview) -> bool:
        """Open a chunk of a tree, and one that several packs list, as far as an identity is at hand: one may be false.

        Any other chunk is copied as it is.
        """
        end = entry.offset + entry.sealed_size
        if end > len(body):
            return False
        tree = entry.chunk_id in self._needs.trees
        if not tree and not self._source.index.other_packs(entry.chunk_id):
            return True
        location = Location(pack_id, *entry[1:])
        try:
            open_chunk(self._source, entry.chunk_id, location, body[entry.offset : end], tree=tree, compare=True)
        except AccessDenied:
            return True
        except IntegrityError as error:
            if error.object_name != pack_key(pack_id):  # the key is damaged
                raise
            return False
        return True


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
        self._walker = TreeWalker(lambda chunk_id: self._finder.read(chunk_id, tree=True, needed_by="a tree"))
        self._stretches: dict[Stretch, tuple[bytes, ...]] = {}
        self._packs: dict[str, list[bytes]] = {}
        self._keys: dict[bytes, set[bytes]] = {}
        self._moved: defaultdict[bytes, list[bytes]] = defaultdict(list)
        """Where chunks of a pack were found, if not in the pack."""
        self._tried: defaultdict[bytes, set[bytes]] = defaultdict(set)
        """By chunk, the packs that do not hold it, whoever says so."""
        self.chunks: dict[bytes, set[bytes]] = {}
        """By pack."""
        self.trees: set[bytes] = set()
        """The chunks of trees."""

    def add(self, snapshot: Snapshot) -> None:
        packs: dict[bytes, None] = {}
        for target in stored_trees(snapshot):
            name = f"{target.title} in snapshot {snapshot.id}"
            tree = tuple(tree_chunk_ids(target))
            self.trees.update(tree)
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
        left, seen = deque(self._packs[snapshot.id]), dict[bytes, None]()
        while left:
            pack_id = left.popleft()
            if pack_id not in seen:
                seen[pack_id] = None
                left.extendleft(reversed(self._moved.get(pack_id, [])))
        return [pack_id for pack_id in seen if pack_id in self.chunks]

    def key_ids(self, packs: Iterable[bytes]) -> set[bytes]:
        """The data keys of the needed chunks in these packs."""
        return set().union(*(self._keys[pack_id] for pack_id in packs)) - {TREE_KEY_ID}

    def look_again(self, pack_id: bytes) -> list[bytes]:
        """Look up in a fresh index where the chunks of a pack that is gone lie now; return those packs.

        Raises IntegrityError if the index still places them in that pack, and no other pack holds them.
        """
        self._source.reload_index()
        lost = self.chunks.pop(pack_id)
        del self._keys[pack_id]
        for chunk_id in lost:
            self._tried[chunk_id].add(pack_id)
        places = list(dict.fromkeys(self._note(lost, pack_key(pack_id))))
        self._moved[pack_id] += [place for place in places if place != pack_id]
        if pack_id in places:
            places += self.look_elsewhere(pack_id, set(self.chunks[pack_id]), missing_pack(pack_id))
        return [place for place in places if place != pack_id]

    def look_elsewhere(self, pack_id: bytes, chunk_ids: Set[bytes], damage: IntegrityError) -> list[bytes]:
        """Look up in the packs' own directories where these chunks of a pack lie too; return those packs.

        Raises `damage`, which tells what is wrong with the pack, for a chunk that no other pack holds.
        """
        found: dict[bytes, PackedListing] = {}
        for chunk_id in chunk_ids:
            self._tried[chunk_id].add(pack_id)
            holders = self._source.directories.holders(chunk_id)
            other = next((pack for pack in holders if pack.pack_id not in self._tried[chunk_id]), None)
            if other is None:
                raise damage
            found[chunk_id] = other
        self._source.note([damage])
        self.chunks[pack_id] -= chunk_ids
        if not self.chunks[pack_id]:
            del self.chunks[pack_id], self._keys[pack_id]
        for chunk_id, other in found.items():
            self._put(chunk_id, other.pack_id, {entry.key_id for entry in entries_of(other, chunk_id)})
        places = list(dict.fromkeys(other.pack_id for other in found.values()))
        self._moved[pack_id] += places
        return places

    def _note(self, chunk_ids: Iterable[bytes], name: str) -> Iterator[bytes]:
        """Note that `name` needs these chunks; yield the pack of each."""
        for chunk_id in chunk_ids:
            location = self._finder.locate(chunk_id, needed_by=name)
            self._put(chunk_id, location.pack_id, {location.key_id})
            yield location.pack_id

    def _put(self, chunk_id: bytes, pack_id: bytes, key_ids: Set[bytes]) -> None:
        self.chunks.setdefault(pack_id, set()).add(chunk_id)
        self._keys.setdefault(pack_id, set()).update(key_ids)


def _chunk_ids(extents: Iterable[bytes]) -> Iterator[bytes]:
    for packed in extents:
        for start in range(0, len(packed), EXTENT.size):
            yield packed[start : start + 32]
