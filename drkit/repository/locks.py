"""Object locks in a repository: which objects get one, and which locks are renewed.

The lock of an object that a live snapshot needs must never run out; the lock of one that nothing needs must. Marks tell
them apart: what a prune has condemned stays in its mark until it is deleted, and no run refers to it any more.
"""

from __future__ import annotations

from collections.abc import Set

from drkit.repository.commit.marks import condemned, read_marks
from drkit.repository.format.names import LOCKED_PREFIXES
from drkit.repository.format.packs import PACK_PREFIX, pack_key
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX
from drkit.repository.index import INDEX_PREFIX, get_index, read_all
from drkit.repository.keys.wraps import data_key_wraps_and_labels
from drkit.repository.repository import Repository


def renew_locks(repository: Repository, snapshots: Set[str]) -> int:
    """Renew the locks of all that these snapshots need, if less than half of their period is left.

    Until a prune has run, objects that only other snapshots need count as needed, and so does what is listed in a mark
    that does not open: they stay longer, never shorter. Returns how many locks were renewed. A damaged index object is
    passed over.
    """
    storage = repository.storage
    if not storage.traits.locks:
        return 0
    marks, _ = read_marks(storage, repository.objects)
    going = condemned(marks)
    wraps, labels = data_key_wraps_and_labels(storage)
    dead_keys = {wrap.key_id for wrap in wraps if wrap.id in going}
    unneeded = {f"keys/{wrap.key_id.hex()}/{wrap.id.hex()}" for wrap in wraps if wrap.key_id in dead_keys}
    unneeded |= {label.key for label in labels if label.key_id in dead_keys}
    needed = {SNAPSHOT_PREFIX + run_id for run_id in snapshots} | _index_and_packs(repository, going)

    def is_needed(key: str) -> bool:
        if key.startswith((SNAPSHOT_PREFIX, INDEX_PREFIX, PACK_PREFIX)):
            return key in needed
        return key not in unneeded

    return storage.renew_locks(LOCKED_PREFIXES, is_needed)


def _index_and_packs(repository: Repository, going: Set[bytes]) -> set[str]:
    """The listed packs that no prune has condemned, and the fewest index objects that list them.

    A prune replaces index objects that list a condemned pack: such an object counts only if it alone lists another one.
    """
    storage, sealer = repository.storage, repository.objects
    listed, _ = read_all(storage, lambda key: {pack.pack_id: hash(pack) for pack in get_index(storage, sealer, key)})
    needed: set[tuple[bytes, int]] = set()  # a listing that lies takes the place of no other
    keys: set[str] = set()
    for key, packs in sorted(listed.items(), key=lambda item: not going.isdisjoint(item[1])):
        fresh = {(pack_id, listing) for pack_id, listing in packs.items() if pack_id not in going} - needed
        if fresh:
            keys.add(key)
            needed |= fresh
    return keys | {pack_key(pack_id) for pack_id, _ in needed}
