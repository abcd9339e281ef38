"""What is stored, and which of it the snapshots need: all that a prune decides from. Reads structure only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from drkit.errors import IntegrityError, ObjectNotFound, StorageUnavailable
from drkit.repository.chunk_finder import ChunkFinder
from drkit.repository.format.packs import ENTRY, pack_key
from drkit.repository.format.snapshot import Snapshot, stored_trees, tree_chunk_ids
from drkit.repository.index import ATTEMPTS, Location, PackedListing, index_keys, read_index
from drkit.repository.keys.wraps import KEY_ID_SIZE, TREE_KEY_ID, DataKeyWrap, data_key_wraps, usable_keys
from drkit.repository.pack_reader import stored_packs
from drkit.repository.repository import Repository
from drkit.repository.tree_walker import TreeWalker
from drkit.storage.base import Storage

ID_SIZE = 32
_NONE: frozenset[bytes] = frozenset()


@dataclass
class Survey:
    """Packs, by number. A chunk's *home* is the one pack that counts as holding it; other copies are not needed.

    Takes about 250 bytes for each chunk.
    """

    objects: dict[str, list[PackedListing]]
    """Index objects that can be read, with the packs that each lists."""
    damaged: list[IntegrityError]
    """Index objects that cannot be read."""
    wraps: list[DataKeyWrap]
    """Wraps of all data keys, listed before the index was read."""
    stored: dict[bytes, int]
    """Every pack in the storage, and its size. Listed after the index was read: packs are stored before the index."""
    packs: list[PackedListing] = field(default_factory=list)
    """The packs that the index lists and the storage has, each once."""
    homes: dict[bytes, int] = field(default_factory=dict)
    """By chunk id: the number of its home, or its complement (`~number`) once a snapshot needs the chunk."""

    @property
    def unlisted(self) -> set[bytes]:
        return self.stored.keys() - {pack.pack_id for pack in self.packs}

    def is_current(self, storage: Storage) -> bool:
        """Whether the index is unchanged and no pack is gone since. New packs may have come."""
        known = self.objects.keys() | {error.object_name for error in self.damaged}
        return set(index_keys(storage)) == known and self.stored.items() <= stored_packs(storage).items()

    def is_there(self, pack: PackedListing) -> bool:
        return self.stored.get(pack.pack_id) == pack.size

    def require_agreement(self, repository: Repository) -> None:
        """Raise IntegrityError if two listings of a pack that is there differ: nobody knows then what lies in it."""
        first: dict[bytes, tuple[str, PackedListing]] = {}
        for key, packs in self.objects.items():
            for pack in packs:
                where, other = first.setdefault(pack.pack_id, (key, pack))
                if other != pack and pack.pack_id in self.stored:
                    if repository.directories.of(pack.pack_id) is None:
                        raise _listed_differently(pack.pack_id, key, where)
                    raise lying_index(key, pack.pack_id, f"differently from {where}")

    def settle_homes(self, going: frozenset[bytes], doubtful: frozenset[bytes]) -> None:
        """Give every chunk its home: best in a pack that nobody has condemned, then in `going`, last in `doubtful`."""
        doubtful = doubtful | self._without_keys(doubtful)
        listed = {pack.pack_id: pack for packs in self.objects.values() for pack in packs if self.is_there(pack)}
        self.packs = sorted(
            listed.values(), key=lambda pack: (pack.pack_id in doubtful, pack.pack_id in going, pack.pack_id)
        )
        for number, pack in enumerate(self.packs):
            entries = pack.entries
            for start in range(0, len(entries), ENTRY.size):
                self.homes.setdefault(entries[start : start + ID_SIZE], number)

    def _without_keys(self, doubtful: frozenset[bytes]) -> set[bytes]:
        """The packs with a chunk whose key is gone, or is about to go."""
        usable = usable_keys(self.wraps, doubtful)
        return {
            pack.pack_id
            for packs in self.objects.values()
            for pack in packs
            if not {pack.entries[at : at + KEY_ID_SIZE] for at in range(ID_SIZE, len(pack.entries), ENTRY.size)}
            <= usable
        }

    def need(self, chunk_id: bytes) -> bool:
        """Note that a snapshot needs this chunk. False if no pack holds it."""
        number = self.homes.get(chunk_id)
        if number is None:
            return False
        if number >= 0:
            self.homes[chunk_id] = ~number
        return True

    def home_of_needed(self, chunk_id: bytes) -> int | None:
        """The number of the home of a chunk that is needed; None for any other."""
        number = self.homes.get(chunk_id)
        return ~number if number is not None and number < 0 else None

    def needed(self, number: int) -> Iterator[bytes]:
        """Yield the packed entries of the chunks that are needed and whose home is this pack."""
        entries, home = self.packs[number].entries, ~number
        for start in range(0, len(entries), ENTRY.size):
            if self.homes[entries[start : start + ID_SIZE]] == home:
                yield entries[start : start + ENTRY.size]

    def key_ids(self, without: frozenset[bytes]) -> set[bytes]:
        """The keys of all chunks in listed packs, except the packs `without`."""
        return {
            pack.entries[start : start + KEY_ID_SIZE]
            for pack in self.packs
            if pack.pack_id not in without
            for start in range(ID_SIZE, len(pack.entries), ENTRY.size)
        }


def survey(
    repository: Repository,
    snapshots: Iterable[Snapshot],
    *,
    going: frozenset[bytes] = _NONE,
    doubtful: frozenset[bytes] = _NONE,
) -> Survey:
    """Read the index, then the trees of `snapshots`, which were listed before: so the index holds all that they need.

    Packs in `going` are those this prune wants to remove, `doubtful` is what other prunes have condemned. Raises
    IntegrityError for a tree that cannot be read, for a chunk that is in no pack, and for index objects that contradict
    each other: then nobody knows what is needed.
    """
    records = list(snapshots)
    for _ in range(ATTEMPTS):
        found = _read_index(repository)
        found.require_agreement(repository)
        found.settle_homes(going, doubtful)
        try:
            _find_needed(repository, found, records)
        except (IntegrityError, ObjectNotFound):
            # Chunks may have moved while we read. If nothing has changed, it is damage.
            again = _read_index(repository)
            if (again.objects.keys(), again.stored) == (found.objects.keys(), found.stored):
                if found.damaged:
                    raise index_damage(found) from None
                raise
        else:
            return found
    raise StorageUnavailable(
        f"the packs of {repository.storage.url} changed {ATTEMPTS} times while they were read",
        hint="Run the same command again.",
    )


def _listed_differently(pack_id: bytes, one: str, other: str) -> IntegrityError:
    """The error for a pack that is damaged, so that nobody can tell which of two index objects is right about it."""
    key = pack_key(pack_id)
    return IntegrityError(
        f"{key} is damaged, and {one} and {other} list it differently: what it holds is unclear, so nothing is removed",
        hint="Restore that pack from a copy of the repository. If there is none: forget what drkit check says it hits, "
        "move the pack away, and run drkit repair index.",
        object_name=key,
    )


def lying_index(key: str, pack_id: bytes, how: str) -> IntegrityError:
    """The error for an index object that says something false of a pack."""
    return IntegrityError(
        f"{key} lists {pack_key(pack_id)} {how}: what that pack holds is unclear, so nothing is removed",
        hint="Run drkit repair index, then drkit prune again.",
        object_name=key,
    )


def index_damage(found: Survey) -> IntegrityError:
    return IntegrityError(
        f"{found.damaged[0].message}, and {len(found.unlisted)} packs are listed nowhere else",
        hint="Run drkit repair index, then drkit prune again.",
        object_name=found.damaged[0].object_name,
    )


def _read_index(repository: Repository) -> Survey:
    wraps = data_key_wraps(repository.storage)
    objects, damaged = read_index(repository.storage, repository.objects)
    return Survey(objects, damaged, wraps, stored_packs(repository.storage))


def _find_needed(repository: Repository, found: Survey, snapshots: list[Snapshot]) -> None:
    places = {
        entry[:ID_SIZE]: (number, entry)
        for number, pack in enumerate(found.packs)
        if pack.entries[ID_SIZE : ID_SIZE + KEY_ID_SIZE] == TREE_KEY_ID  # all chunks of a pack are of one kind
        for entry in _split(pack.entries)
    }

    finder = ChunkFinder(repository)

    def read(chunk_id: bytes) -> bytes:
        if chunk_id not in places:
            raise _missing(chunk_id, "a tree")
        number, entry = places[chunk_id]
        _, key_id, offset, sealed_size, size = ENTRY.unpack(entry)
        return finder.open_tree_at(chunk_id, Location(found.packs[number].pack_id, key_id, offset, sealed_size, size))

    walker = TreeWalker(read)
    for snapshot in snapshots:
        for target in stored_trees(snapshot):
            name = f"{target.title} in snapshot {snapshot.id}"
            for chunk_id in walker.walk(name, tuple(tree_chunk_ids(target))):
                if not found.need(chunk_id):
                    raise _missing(chunk_id, name)


def _split(entries: bytes) -> Iterator[bytes]:
    return (entries[start : start + ENTRY.size] for start in range(0, len(entries), ENTRY.size))


def _missing(chunk_id: bytes, name: str) -> IntegrityError:
    chunk = f"chunk {chunk_id.hex()}"
    return IntegrityError(
        f"{chunk} that {name} needs is in no index", hint="Run drkit check, then drkit repair index.", object_name=chunk
    )
