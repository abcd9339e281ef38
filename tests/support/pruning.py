"""What tests of prunes share: a clock that does not wait, and what a prune must not leave behind."""

from __future__ import annotations

import json

from drkit.repository.index import get_index, index_keys
from drkit.repository.keys.wraps import TREE_KEY_ID, data_key_wraps
from drkit.repository.pack_reader import stored_packs
from drkit.repository.prune.prune import Clock, Done, Options, Prune
from drkit.repository.repository import Repository

ALL = Options(max_repack=1 << 40, yes_really=True)


class FastClock(Clock):
    """Time passes only when somebody waits for it to pass."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def prune_now(repository: Repository, prune_id: str = "prune", *forget: str, options: Options = ALL) -> Done:
    """Prune a repository where every session that is left is a dead run's."""
    return Prune(repository, prune_id, lambda snapshots: set(forget), options, host="host", clock=FastClock()).run()


def prune_until_clean(repository: Repository, *forget: str) -> int:
    """Prune until nothing is left that nothing needs; how often that took.

    The key of a chunk that a prune moved goes with the next one; after crashes that may move something itself.
    """
    for count in range(1, 5):
        prune_now(repository, f"z-prune-{count}", *forget)
        if not debris(repository):
            return count
    raise AssertionError(f"left behind after {count} prunes: {debris(repository)}")


def debris(repository: Repository) -> list[str]:
    """The objects that nothing needs, and that a prune should have taken along.

    Tombstones stay, and in a mirror the data keys: a copy may bring them back.
    """
    storage, sealer = repository.storage, repository.objects
    left = [info.key for prefix in ("sessions/", "marks/") for info in storage.list(prefix)]
    listed: dict[bytes, set[bytes]] = {}
    for key in index_keys(storage):
        packs = get_index(storage, sealer, key)
        if not packs:
            left.append(key)
        for pack in packs:
            if pack.pack_id in listed:
                left.append(f"{key} lists {pack.pack_id.hex()} again")
            listed[pack.pack_id] = {entry.key_id for entry in pack.listing().entries}
    stored = stored_packs(storage)
    left += [f"packs {pack_id.hex()} not listed" for pack_id in stored.keys() - listed.keys()]
    left += [f"packs {pack_id.hex()} listed, not there" for pack_id in listed.keys() - stored.keys()]
    if repository.is_mirror:
        return left
    used = set().union(*listed.values()) - {TREE_KEY_ID}
    left += [f"keys/{wrap.key_id.hex()} unused" for wrap in data_key_wraps(storage) if wrap.key_id not in used]
    return left


def is_tombstone(repository: Repository, key: str) -> bool:
    payload = repository.objects.open("snapshot", key.split("/")[1].encode(), repository.storage.get(key), source=key)
    return "fenced" in json.loads(payload)
