"""New index objects for old ones: without the packs that go, nothing listed twice, few instead of many small ones."""

from __future__ import annotations

from collections.abc import Callable, Set

from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.packs import ENTRY
from drkit.repository.index import MAX_ENTRIES, RawPack, put_index
from drkit.repository.prune.survey import Survey
from drkit.storage.base import Storage

SMALL = MAX_ENTRIES // 8
MANY_SMALL = 16


def replace_index(
    storage: Storage,
    sealer: ObjectSealer,
    found: Survey,
    going: Set[bytes],
    delete: Callable[[str], bool],
) -> None:
    """Put the listings that stay into new index objects, then delete the old ones; object by object.

    A pack that stays is listed at every moment. Needs the space of one index object, as much memory, and a pack that is
    listed in an object that stays as it is is not listed again.
    """
    old = objects_to_replace(found, going)
    listed = {
        pack.pack_id for key, packs in found.objects.items() if key not in old for pack in packs if found.is_there(pack)
    }
    waiting: list[RawPack] = []
    replaced: list[str] = []

    def flush() -> None:
        put_index(storage, sealer, (pack.listing() for pack in waiting))
        for key in replaced:
            delete(key)
        waiting.clear()
        replaced.clear()

    count = 0
    for key in old:
        for pack in found.objects.get(key, ()):
            if pack.pack_id in going or pack.pack_id in listed or not found.is_there(pack):
                continue
            listed.add(pack.pack_id)
            waiting.append(pack)
            count += len(pack.entries) // ENTRY.size
        replaced.append(key)
        if count >= MAX_ENTRIES:
            flush()
            count = 0
    flush()


def objects_to_replace(found: Survey, going: Set[bytes]) -> list[str]:
    """Index objects that cannot be read, that list what goes, is gone or stands in another one, and many small ones."""
    seen: set[bytes] = set()
    stale, small = [], []
    for key, packs in found.objects.items():
        ids = {pack.pack_id for pack in packs}
        if ids & seen or ids & going or not all(map(found.is_there, packs)):
            stale.append(key)
        else:
            seen |= ids
            if sum(len(pack.entries) for pack in packs) < SMALL * ENTRY.size:
                small.append(key)
    merged = small if len(small) >= MANY_SMALL else []
    return [*(error.object_name for error in found.damaged), *stale, *merged]
