"""Reading the whole index into memory, and what packs themselves say where the index cannot be right."""

from __future__ import annotations

from collections.abc import Container, Iterator

from drkit.errors import IntegrityError
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.packs import pack_key
from drkit.repository.index import INDEX_PREFIX, Index, PackedListing, PackListing, get_index, read_all
from drkit.repository.keys.wraps import data_key_wraps, usable_keys
from drkit.repository.pack_reader import read_directories, stored_packs
from drkit.storage.base import Storage


def lie(pack_id: bytes) -> IntegrityError:
    """The error for an index that says of a pack what its own directory does not."""
    key = pack_key(pack_id)
    return IntegrityError(
        f"the index lists {key} wrongly: what that pack's own directory says counts",
        hint="Run drkit repair index.",
        object_name=key,
    )


def index_for_writing(
    storage: Storage, sealer: ObjectSealer, *, without: frozenset[bytes] = frozenset()
) -> tuple[Index, list[IntegrityError]]:
    """Read the chunks that a new snapshot may refer to; a writer stores all others again.

    Left out are the packs `without`, packs that are missing or cut short, everything that only a damaged index object
    lists, and chunks under a key that has no wrap or has one among `without`. Of a pack that is listed twice
    differently, or impossibly, its own directory counts. Returns the damage beside the index.
    """
    keys = usable_keys(data_key_wraps(storage), without)
    loading = _Loading(storage, sealer, keys, without)
    damage = [_stored_again(error) for error in loading.load()]
    return loading.index, damage


def _stored_again(error: IntegrityError) -> IntegrityError:
    if not error.object_name.startswith(INDEX_PREFIX):
        return error
    message = f"{error.message}: what it alone lists is stored again"
    return IntegrityError(message, hint="Run drkit repair index.", object_name=error.object_name)


def index_for_reading(storage: Storage, sealer: ObjectSealer) -> tuple[Index, list[IntegrityError]]:
    """Read all that index objects still tell, and, where one is damaged, the directories of packs that none lists.

    A restore must not fail because the index is damaged. A pack that is missing counts only where no other one holds
    its chunks. Of a pack that is listed twice differently, or impossibly, its own directory counts, if that can be
    read. Returns the damage beside the index.
    """
    loading = _Loading(storage, sealer)
    damage = loading.load()
    index = loading.index
    if any(error.object_name.startswith(INDEX_PREFIX) for error in damage):
        damage += add_unlisted_packs(index, storage, sealer)
    damage += loading.other_sizes()
    for pack in (*loading.listings_in_doubt(), *loading.missing.values()):
        index.add_unknown(pack)  # what cannot be read there names this pack
    index.doubted = [pack for pack in loading.listings_in_doubt() if pack.pack_id in loading.unread]
    return index, damage


class _Loading:
    """One reading of the whole index, with `keys` only of chunks that are sealed with one of them."""

    def __init__(
        self,
        storage: Storage,
        sealer: ObjectSealer,
        keys: Container[bytes] | None = None,
        without: Container[bytes] = (),
    ) -> None:
        self._storage, self._sealer = storage, sealer
        self._keys, self._without = keys, without
        self._stored = stored_packs(storage)
        self.index = Index()
        self.missing: dict[bytes, PackedListing] = {}
        """Packs that are listed and not in the storage, or not in this size."""
        self.doubted: dict[bytes, dict[int, PackedListing]] = {}
        """Packs that are listed twice differently, or impossibly, with all that is said of each."""
        self.unread: set[bytes] = set()
        """Those of them whose own directory cannot be read."""
        self._first: dict[bytes, int] = {}

    def load(self) -> list[IntegrityError]:
        """Read all, and the directories of packs in doubt. Returns the damage met."""
        while True:
            in_doubt = len(self.doubted)
            _, damage = read_all(self._storage, self._add)
            if len(self.doubted) == in_doubt:
                break
            self.index, self.missing, self._first = Index(), {}, {}  # again, without any of the packs in doubt
        sizes = {pack_id: self._stored[pack_id] for pack_id in self.doubted}
        for pack_id, found in read_directories(self._storage, self._sealer, sizes):
            if isinstance(found, IntegrityError):
                damage.append(found)
                self.unread.add(pack_id)
                continue
            damage.append(lie(pack_id))
            self.index.add(PackListing(pack_id, sizes[pack_id], found).packed(), self._keys)
        return damage

    def listings_in_doubt(self) -> list[PackedListing]:
        return [pack for listings in self.doubted.values() for pack in listings.values()]

    def other_sizes(self) -> Iterator[IntegrityError]:
        """Yield the damage of packs that have another size than the index says: either of them is wrong."""
        for pack in self.missing.values():
            if pack.pack_id in self._stored:
                key, size = pack_key(pack.pack_id), self._stored[pack.pack_id]
                message = f"{key} has {size} bytes, the index says {pack.size}"
                yield IntegrityError(message, hint="Run drkit check.", object_name=key)

    def _add(self, key: str) -> None:
        for pack in get_index(self._storage, self._sealer, key):
            if pack.pack_id in self._without:
                continue
            listed = hash(pack)  # 8 bytes to remember in place of all entries
            if pack.pack_id in self.doubted:
                self.doubted[pack.pack_id][listed] = pack
                continue
            first = self._first.setdefault(pack.pack_id, listed)
            if pack.pack_id in self._stored and (first != listed or not pack.is_possible()):
                self.doubted[pack.pack_id] = {listed: pack}
            elif self._stored.get(pack.pack_id) == pack.size:
                self.index.add(pack, self._keys)
            else:
                self.missing[pack.pack_id] = pack


def add_unlisted_packs(index: Index, storage: Storage, sealer: ObjectSealer) -> list[IntegrityError]:
    """Add the packs that the index does not know, from their own directories. Returns the damage met."""
    damage = []
    sizes = {pack_id: size for pack_id, size in stored_packs(storage).items() if pack_id not in index.pack_sizes}
    for pack_id, found in read_directories(storage, sealer, sizes):
        if isinstance(found, IntegrityError):
            damage.append(found)
        else:
            index.add(PackListing(pack_id, sizes[pack_id], found).packed())
    return damage
