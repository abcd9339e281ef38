"""Rebuilding the index from the packs. Only ever adds objects: what was there, damaged or not, stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from drkit.errors import IntegrityError, ObjectNotFound
from drkit.repository.format.packs import read_directory
from drkit.repository.index import MAX_ENTRIES, PackListing, get_raw_index, put_index, read_all, stored_packs
from drkit.repository.repository import Repository


@dataclass
class Repaired:
    packs: int = 0
    """Packs that were in no index object, and are now."""
    chunks: int = 0
    damaged: list[IntegrityError] = field(default_factory=list)
    """Packs whose directory cannot be read, and index objects that cannot: what these listed is listed anew."""


def repair_index(repository: Repository) -> Repaired:
    """List every pack that no readable index object lists in a new one. Run twice, it finds nothing more to do.

    Harmless beside runs and prunes: an index object that lists too much, also a pack that goes meanwhile, hurts nobody.
    """
    storage, sealer = repository.storage, repository.objects
    objects, damaged = read_all(storage, lambda key: get_raw_index(storage, sealer, key))
    listed = {(pack.pack_id, pack.size) for packs in objects.values() for pack in packs}
    result = Repaired(damaged=damaged)
    waiting: list[PackListing] = []
    count = 0
    for pack_id, size in stored_packs(storage).items():
        if (pack_id, size) in listed:
            continue
        try:
            waiting.append(PackListing(pack_id, size, read_directory(storage, sealer, pack_id)))
        except IntegrityError as error:
            result.damaged.append(error)
            continue
        except ObjectNotFound:
            continue  # a prune removed it since the listing
        result.packs += 1
        count += len(waiting[-1].entries)
        if count >= MAX_ENTRIES:
            result.chunks += count
            put_index(storage, sealer, waiting)
            waiting, count = [], 0
    result.chunks += count
    put_index(storage, sealer, waiting)
    return result
