"""Snapshot records in a storage: creating one commits a run, or fences it.

`snapshots/<run id>` is a sealed object of kind `snapshot` (see format/record.py). It is created once, by the run
itself or by the prune that fences it, and never changed.
"""

from __future__ import annotations

from collections.abc import Iterator

from drkit.errors import IntegrityError, ObjectExists, ObjectNotFound
from drkit.repository.format.layout import kind_of
from drkit.repository.format.limits import SEALED
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.record import decode_snapshot, tombstone
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX, Snapshot
from drkit.storage.acknowledged import not_there
from drkit.storage.base import Storage

_LIMIT = SEALED["snapshot"].stored


def commit_run(storage: Storage, sealer: ObjectSealer, run_id: str, payload: bytes) -> bool:
    """Create the record of a run: on return the snapshot exists, and was read back. False if the run was fenced before.

    Raises IntegrityError where the store acknowledged the record and does not hold it.
    """
    return _create(storage, run_id, _seal(sealer, run_id, payload), locked=True)


def fence_run(storage: Storage, sealer: ObjectSealer, run_id: str, *, by: str) -> bool:
    """Create the tombstone of a run, which then cannot commit. A prune that makes its own may delete.

    False if the run has committed, or another prune has fenced it.
    """
    return _create(storage, run_id, _seal(sealer, run_id, tombstone(run_id, by=by)), locked=False)


def is_taken(storage: Storage, run_id: str) -> bool:
    """Whether `snapshots/<run id>` exists. To a run that has not committed this means that it was fenced."""
    try:
        storage.stat(SNAPSHOT_PREFIX + run_id)
    except ObjectNotFound:
        return False
    return True


def _seal(sealer: ObjectSealer, run_id: str, payload: bytes) -> bytes:
    return sealer.seal("snapshot", run_id.encode(), payload)


def _create(storage: Storage, run_id: str, body: bytes, *, locked: bool) -> bool:
    """Create `snapshots/<run id>`. False if it exists with another body.

    It is always read back: some stores acknowledge what they do not keep. Where only the answer to our own put was
    lost, the object holds our own bytes: the nonce makes every body unique.
    """
    key = SNAPSHOT_PREFIX + run_id
    try:
        storage.put(key, body, locked=locked)
        acknowledged = True
    except ObjectExists:
        acknowledged = False
    try:
        ours = storage.get(key, limit=_LIMIT) == body
    except ObjectNotFound:  # dropped; or somebody created it before us, and somebody has deleted it since
        ours = False
    if acknowledged and not ours:
        raise not_there(storage, key)
    return ours


def get_snapshot(storage: Storage, sealer: ObjectSealer, key: str) -> Snapshot | None:
    """Read one record; None for a tombstone. Raises IntegrityError naming the object, ObjectNotFound."""
    payload = get_payload(storage, sealer, key)
    snapshot = decode_snapshot(payload, source=key, repository_id=sealer.repository_id)
    if snapshot is not None and snapshot.id != key.removeprefix(SNAPSHOT_PREFIX):
        raise IntegrityError(f"{key} holds the record of {snapshot.id}", object_name=key)
    return snapshot


def get_payload(storage: Storage, sealer: ObjectSealer, key: str) -> bytes:
    """Return the bytes of a record as they were written. Raises IntegrityError naming the object, ObjectNotFound."""
    return sealer.open(
        "snapshot", key.removeprefix(SNAPSHOT_PREFIX).encode(), storage.get(key, limit=_LIMIT), source=key
    )


def list_snapshots(storage: Storage, sealer: ObjectSealer) -> Iterator[Snapshot | IntegrityError]:
    """Yield every record, oldest run first; a damaged one is yielded as the error that names it.

    A record that is deleted after the listing is left out.
    """
    keys = [info.key for info in storage.list(SNAPSHOT_PREFIX) if kind_of(info.key) == "snapshot"]
    storage.fetch_ahead(keys)
    for key in keys:
        try:
            snapshot = get_snapshot(storage, sealer, key)
        except ObjectNotFound:
            continue
        except IntegrityError as error:
            yield error
        else:
            if snapshot is not None:
                yield snapshot
