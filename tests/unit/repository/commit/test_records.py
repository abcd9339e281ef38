"""Snapshot records in a storage: one commits a run or fences it, and a damaged one hides no other."""

from __future__ import annotations

import pytest

from drkit.errors import IntegrityError, ObjectExists, ObjectNotFound
from drkit.repository.commit.records import commit_run, fence_run, get_snapshot, is_taken, list_snapshots
from drkit.repository.format.kinds import Status
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.record import encode_snapshot
from drkit.repository.format.snapshot import SNAPSHOT_PREFIX, Snapshot, Target, format_time
from drkit.storage.base import Data
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import NOW


def a_snapshot(run_id: str) -> Snapshot:
    return Snapshot(run_id, format_time(NOW), "h", "p", Status.OK, [Target("volume", "v", tree=["ab" * 32])])


@pytest.fixture
def sealer() -> ObjectSealer:
    return ObjectSealer(bytes(32), bytes(16))


def commit(storage: MemoryStorage, sealer: ObjectSealer, snapshot: Snapshot) -> bool:
    return commit_run(storage, sealer, snapshot.id, encode_snapshot(snapshot))


def put_record(storage: MemoryStorage, sealer: ObjectSealer, snapshot: Snapshot, key: str) -> None:
    name = key.removeprefix(SNAPSHOT_PREFIX)
    storage.put(key, sealer.seal("snapshot", name.encode(), encode_snapshot(snapshot)))


def test_a_damaged_record_hides_no_other(sealer: ObjectSealer) -> None:
    storage = MemoryStorage()
    for number in range(3):
        put_record(storage, sealer, a_snapshot(f"2025-{number}"), f"snapshots/2025-{number}")
    storage.objects["snapshots/2025-1"] = storage.objects["snapshots/2025-2"]
    first, second, third = list_snapshots(storage, sealer)
    assert isinstance(first, Snapshot)
    assert isinstance(third, Snapshot)
    assert [first.id, third.id] == ["2025-0", "2025-2"]
    assert isinstance(second, IntegrityError)
    assert second.object_name == "snapshots/2025-1"


def test_a_tombstone_is_no_snapshot(sealer: ObjectSealer) -> None:
    storage = MemoryStorage()
    put_record(storage, sealer, a_snapshot("2025-0"), "snapshots/2025-0")
    tombstone = sealer.seal("snapshot", b"2025-1", b'{"fenced": "prune-1"}')
    storage.put("snapshots/2025-1", tombstone)
    assert get_snapshot(storage, sealer, "snapshots/2025-1") is None
    assert [getattr(found, "id", None) for found in list_snapshots(storage, sealer)] == ["2025-0"]
    storage.objects["snapshots/2025-2"] = tombstone  # of another run
    assert [type(found) for found in list_snapshots(storage, sealer)] == [Snapshot, IntegrityError]


def test_a_record_under_another_name(sealer: ObjectSealer) -> None:
    storage = MemoryStorage()
    put_record(storage, sealer, a_snapshot("2025-0"), "snapshots/2025-1")
    with pytest.raises(IntegrityError, match="snapshots/2025-1 holds the record of 2025-0"):
        get_snapshot(storage, sealer, "snapshots/2025-1")


# --- committing and fencing -------------------------------------------------------------------------------------------


def test_whoever_comes_first_decides(sealer: ObjectSealer) -> None:
    storage = MemoryStorage()
    assert commit(storage, sealer, a_snapshot("2025-0"))
    assert not fence_run(storage, sealer, "2025-0", by="prune")
    assert get_snapshot(storage, sealer, "snapshots/2025-0") == a_snapshot("2025-0")
    assert not is_taken(storage, "2025-1")
    assert fence_run(storage, sealer, "2025-1", by="prune")
    assert is_taken(storage, "2025-1")
    assert not fence_run(storage, sealer, "2025-1", by="another")
    assert not commit(storage, sealer, a_snapshot("2025-1"))
    assert get_snapshot(storage, sealer, "snapshots/2025-1") is None


class Late(MemoryStorage):
    """Every put finds its key taken: by our own bytes, by others, or by something that is gone before it is read."""

    def __init__(self, found: str) -> None:
        super().__init__()
        self.found = found

    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        if self.found != "nothing":
            super().put(key, data if self.found == "ours" else b"of somebody else")
        raise ObjectExists(f"object {key} exists already")


@pytest.mark.parametrize(("found", "ours"), [("ours", True), ("others", False), ("nothing", False)])
def test_a_lost_answer_is_told_from_a_taken_key(sealer: ObjectSealer, found: str, ours: bool) -> None:
    assert commit(Late(found), sealer, a_snapshot("2025-0")) == ours
    assert fence_run(Late(found), sealer, "2025-0", by="prune") == ours


def test_a_record_that_is_not_there(sealer: ObjectSealer) -> None:
    with pytest.raises(ObjectNotFound):
        get_snapshot(MemoryStorage(), sealer, "snapshots/2025-0")
