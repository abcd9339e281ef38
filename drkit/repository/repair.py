"""Rebuilding the index from the packs: what they hold is listed, and index objects that say something else go.

An object is deleted only when everything that it lists, or could list, is listed by others. So no step in between
leaves less than there was, and a repair that is cut short is finished by the next one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from drkit.errors import AccessDenied, IntegrityError, counted
from drkit.repository.format.packs import pack_key
from drkit.repository.index import IndexBatch, PackedListing, PackListing, read_index
from drkit.repository.pack_reader import read_directories, read_packs, stored_packs
from drkit.repository.repository import Repository


@dataclass
class Repaired:
    packs: int = 0
    """Packs that no index object listed, or only one that goes, and that are in a new one now."""
    chunks: int = 0
    lying: list[IntegrityError] = field(default_factory=list)
    """Index objects that listed a pack otherwise than the pack's own directory does."""
    damaged: list[IntegrityError] = field(default_factory=list)
    """Packs that cannot be read, and index objects that cannot: the packs these listed are listed again."""
    deleted: list[str] = field(default_factory=list)
    """Index objects that lied, or could not be read, and are gone."""
    denied: list[str] = field(default_factory=list)
    """Those that the storage refused to delete now (object lock)."""


def repair_index(repository: Repository) -> Repaired:
    """List every pack as its own directory does, then delete the index objects that lie or cannot be read.

    An index object that cannot be read stays while a pack is damaged: it may be all that tells what lies there. Takes
    60 bytes for each chunk. A second repair finds nothing to do, unless the storage refused to delete something.

    Runs and prunes may go on meanwhile. An index object that lists too much, even a pack that is then deleted, harms
    nobody, and whoever misses one that was deleted reads the index again.
    """
    storage, sealer = repository.storage, repository.objects
    objects, unreadable = read_index(storage, sealer)
    # Listed after the index was read: packs are stored before the index object that lists them.
    packs = _Packs.read(repository, objects, stored_packs(storage))
    result = Repaired(damaged=[*unreadable, *packs.damaged.values()])
    for key, listed in objects.items():
        if wrong := [pack for pack in listed if packs.truth.get(pack.pack_id, pack) != pack]:
            result.lying.append(_lying(key, wrong))
    going = {error.object_name for error in result.lying}
    kept = {pack for key, listed in objects.items() if key not in going for pack in listed}
    # Of a damaged pack that no other object lists, what the objects that go say may be all there is.
    told = {pack.pack_id for pack in kept}
    untold = {pack for key in going for pack in objects[key] if pack.pack_id in packs.damaged.keys() - told}
    batch = IndexBatch(storage, sealer)
    for pack in [*packs.truth.values(), *sorted(untold)]:
        if pack in kept:
            continue
        batch.add(pack)
        result.packs += 1
        result.chunks += pack.chunks
        if batch.full:
            batch.store()
    batch.store()
    if not packs.damaged:
        going |= {error.object_name for error in unreadable}
    for key in sorted(going):
        try:
            storage.delete(key)
            result.deleted.append(key)
        except AccessDenied:
            result.denied.append(key)
    return result


@dataclass
class _Packs:
    """The packs that are stored: what those that are whole hold, and what is wrong with the others."""

    truth: dict[bytes, PackedListing] = field(default_factory=dict)
    damaged: dict[bytes, IntegrityError] = field(default_factory=dict)

    @classmethod
    def read(
        cls, repository: Repository, objects: dict[str, list[PackedListing]], sizes: Mapping[bytes, int]
    ) -> _Packs:
        """Read all directories. A pack that no listing agrees with is read whole: it may be another one in its place.

        What a listing agrees with is not held twice.
        """
        packs = cls()
        listed: defaultdict[bytes, list[PackedListing]] = defaultdict(list)
        for pack in chain.from_iterable(objects.values()):
            listed[pack.pack_id].append(pack)
        for pack_id, found in read_directories(repository.storage, repository.objects, sizes):
            if isinstance(found, IntegrityError):
                packs.damaged[pack_id] = found
                continue
            own = PackListing(pack_id, sizes[pack_id], found).packed()
            packs.truth[pack_id] = next((pack for pack in listed[pack_id] if pack == own), own)
        doubted = [pack_id for pack_id, own in packs.truth.items() if listed[pack_id] and own not in listed[pack_id]]
        for whole in read_packs(repository.storage, repository.objects, doubted):
            if whole.damage is not None:
                packs.damaged[whole.pack_id] = whole.damage
                del packs.truth[whole.pack_id]
        return packs


def _lying(key: str, wrong: Sequence[PackedListing]) -> IntegrityError:
    more = f", and {counted(len(wrong) - 1, 'pack')} more" if len(wrong) > 1 else ""
    return IntegrityError(
        f"{key} listed {pack_key(wrong[0].pack_id)} otherwise than that pack's own directory does{more}",
        hint="Ask who could have stored it: whoever holds the meta key can.",
        object_name=key,
    )
