"""Rebuilding the index from the packs. This only adds objects: what was there, damaged or not, stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from drkit.errors import IntegrityError
from drkit.repository.index import IndexBatch, PackListing, read_index
from drkit.repository.pack_reader import read_directories, stored_packs
from drkit.repository.repository import Repository


@dataclass
class Repaired:
    packs: int = 0
    """Packs that were in no index object, and are now."""
    chunks: int = 0
    damaged: list[IntegrityError] = field(default_factory=list)
    """Packs whose directory cannot be read, and index objects that cannot: the packs these listed are listed again."""


def repair_index(repository: Repository) -> Repaired:
    """List every pack that no readable index object lists in a new one. A second repair finds nothing to do.

    Runs and prunes may go on meanwhile: an index object that lists too much, even a pack that is then deleted, harms
    nobody.
    """
    storage, sealer = repository.storage, repository.objects
    objects, damaged = read_index(storage, sealer)
    listed = {(pack.pack_id, pack.size) for packs in objects.values() for pack in packs}
    sizes = {pack_id: size for pack_id, size in stored_packs(storage).items() if (pack_id, size) not in listed}
    result = Repaired(damaged=damaged)
    batch = IndexBatch(storage, sealer)
    for pack_id, found in read_directories(storage, sealer, sizes):
        if isinstance(found, IntegrityError):
            result.damaged.append(found)
            continue
        batch.add(PackListing(pack_id, sizes[pack_id], found).packed())
        result.packs += 1
        result.chunks += len(found)
        if batch.full:
            batch.store()
    batch.store()
    return result
