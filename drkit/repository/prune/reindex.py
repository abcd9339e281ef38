"""New index objects for old ones: without the packs that go, each pack listed once, many small objects merged."""

from __future__ import annotations

from collections.abc import Callable, Set

from drkit.repository.format.objects import ObjectSealer
from drkit.repository.index import MAX_ENTRIES, IndexBatch
from drkit.repository.prune.survey import Survey
from drkit.storage.base import Storage

SMALL = MAX_ENTRIES // 8
"""Entries below which an index object is small."""
MANY_SMALL = 16
"""So many small index objects are merged."""


def replace_index(
    storage: Storage,
    sealer: ObjectSealer,
    found: Survey,
    going: Set[bytes],
    delete: Callable[[str], bool],
) -> None:
    """List the packs that stay in new index objects, then delete the old ones, object by object.

    Every pack that stays is listed at every moment, and in the end once. Needs the space, and as much memory, of one or
    two index objects.
    """
    old = objects_to_replace(found, going)
    listed = {
        pack.pack_id for key, packs in found.objects.items() if key not in old for pack in packs if found.is_there(pack)
    }
    batch = IndexBatch(storage, sealer)
    replaced: list[str] = []

    def store() -> None:
        batch.store()
        for key in replaced:
            delete(key)
        replaced.clear()

    for key in old:
        for pack in found.objects.get(key, ()):
            if pack.pack_id in going or pack.pack_id in listed or not found.is_there(pack):
                continue
            listed.add(pack.pack_id)
            batch.add(pack)
        replaced.append(key)
        if batch.full:
            store()
    store()


def objects_to_replace(found: Survey, going: Set[bytes]) -> list[str]:
    """Return the index objects that cannot be read; those that list a pack that goes, is gone, or is listed in another
    one; and the small ones, if there are many."""
    seen: set[bytes] = set()
    stale, small = [], []
    for key, packs in found.objects.items():
        ids = {pack.pack_id for pack in packs}
        if ids & seen or ids & going or not all(map(found.is_there, packs)):
            stale.append(key)
        else:
            seen |= ids
            if sum(pack.chunks for pack in packs) < SMALL:
                small.append(key)
    merged = small if len(small) >= MANY_SMALL else []
    return [*(error.object_name for error in found.damaged), *stale, *merged]
