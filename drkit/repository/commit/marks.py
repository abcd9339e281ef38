"""Marks: what a prune has condemned, announced before anything is deleted."""

from __future__ import annotations

from collections.abc import Iterable

from drkit.errors import IntegrityError, ObjectNotFound
from drkit.repository.format.objects import ObjectSealer
from drkit.storage.base import Storage
from drkit.storage.seen import put_seen

MARK_PREFIX = "marks/"
ID_SIZE = 32

Marks = dict[str, frozenset[bytes]]
"""By prune id, the ids of condemned packs and of condemned wraps of data keys."""


def put_mark(storage: Storage, sealer: ObjectSealer, prune_id: str, ids: Iterable[bytes]) -> None:
    """Announce what a prune may delete. The mark was seen: without it, runs would count on what goes."""
    put_seen(storage, MARK_PREFIX + prune_id, sealer.seal("mark", prune_id.encode(), b"".join(sorted(ids))))


def read_marks(storage: Storage, sealer: ObjectSealer) -> Marks:
    """Read all marks. Raises IntegrityError for one that cannot be read: then nobody knows what may still be used."""
    marks: Marks = {}
    for info in list(storage.list(MARK_PREFIX)):
        try:
            marks[info.key.removeprefix(MARK_PREFIX)] = get_mark(storage, sealer, info.key)
        except ObjectNotFound:
            continue  # that prune has ended since the listing
    return marks


def get_mark(storage: Storage, sealer: ObjectSealer, key: str) -> frozenset[bytes]:
    """Read one mark. Raises IntegrityError, ObjectNotFound."""
    name = key.removeprefix(MARK_PREFIX)
    payload = sealer.open("mark", name.encode(), storage.get(key), source=key)
    if len(payload) % ID_SIZE:
        raise IntegrityError(f"{key} does not hold a whole number of ids", object_name=key)
    return frozenset(payload[start : start + ID_SIZE] for start in range(0, len(payload), ID_SIZE))


def condemned(marks: Marks) -> frozenset[bytes]:
    """Everything that any of these marks lists."""
    return frozenset().union(*marks.values())
