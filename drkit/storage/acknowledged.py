"""Objects that were seen after the store acknowledged them: some stores answer 200 and keep nothing."""

from __future__ import annotations

from drkit.errors import IntegrityError, ObjectNotFound
from drkit.storage.base import Data, Storage


class NotKept(IntegrityError):
    """The store acknowledged an object, and does not hold it, or not whole."""


def put_seen(storage: Storage, key: str, data: Data, *, locked: bool = True) -> None:
    """Create an object, and ask the store whether it is there. Raises what `put` raises, and NotKept."""
    storage.put(key, data, locked=locked)
    try:
        size = storage.stat(key).size
    except ObjectNotFound:
        raise not_there(storage, key) from None
    if size != len(data):
        raise not_there(storage, key)


def not_there(storage: Storage, key: str) -> NotKept:
    """The error for an object that was acknowledged and is not there, or not whole."""
    return NotKept(
        f"{storage.url} acknowledged {key}, but does not hold it: what it stores is not safe there",
        hint="Try the store with drkit doctor, or keep the repository elsewhere.",
        object_name=key,
    )
