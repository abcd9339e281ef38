"""The faulty storage fails as scripted: the tests that use it would otherwise prove nothing."""

from __future__ import annotations

import pytest

from drkit.errors import ObjectNotFound, StorageFull, StorageUnavailable
from tests.support.faulty_storage import Call, FaultyStorage
from tests.support.memory_storage import MemoryStorage


def test_the_nth_call_of_a_kind_below_a_prefix_fails_once() -> None:
    storage = FaultyStorage(MemoryStorage())
    storage.put("packs/0", b"before the script counts")
    storage.fail(StorageFull("full"), kind="put", prefix="packs/", call=2)
    storage.put("packs/1", b"")
    storage.put("index/1", b"")
    storage.get("packs/1")
    with pytest.raises(StorageFull):
        storage.put("packs/2", b"")
    storage.put("packs/3", b"")
    assert [info.key for info in storage.inner.list("packs/")] == ["packs/0", "packs/1", "packs/3"]


def test_a_lost_reply_comes_after_the_work() -> None:
    storage = FaultyStorage(MemoryStorage())
    storage.fail(StorageUnavailable("reset"), kind="put", after=True)
    storage.fail(StorageUnavailable("reset"), kind="delete", after=True)
    with pytest.raises(StorageUnavailable):
        storage.put("config", b"x")
    assert storage.get("config") == b"x"
    with pytest.raises(StorageUnavailable):
        storage.delete("config")
    with pytest.raises(ObjectNotFound):
        storage.stat("config")


def test_a_listing_breaks_before_its_first_or_after_its_last_item() -> None:
    storage = FaultyStorage(MemoryStorage())
    storage.put("a", b"")
    storage.fail(StorageUnavailable("refused"), kind="list", call=1)
    storage.fail(StorageUnavailable("reset"), kind="list", call=2, after=True)
    with pytest.raises(StorageUnavailable, match="refused"):
        next(storage.list(""))
    listing = storage.list("")
    assert next(listing).key == "a"
    with pytest.raises(StorageUnavailable, match="reset"):
        next(listing)


def test_times_lets_the_following_calls_fail_too() -> None:
    storage = FaultyStorage(MemoryStorage())
    storage.fail(StorageUnavailable("down"), times=3)
    for _ in range(3):
        with pytest.raises(StorageUnavailable):
            storage.put("a", b"")
    storage.put("a", b"")


def test_every_call_is_noted_and_shown_before_it_runs() -> None:
    seen: list[tuple[Call, list[str]]] = []
    storage = FaultyStorage(MemoryStorage(), on_call=lambda call: seen.append((call, [*map(str, stored())])))

    def stored() -> list[str]:
        return [info.key for info in storage.inner.list("")]

    storage.put("a", b"")
    storage.stat("a")
    storage.get("a")
    list(storage.list("b"))
    storage.delete("a")
    assert seen == [
        (Call(1, "put", "a"), []),
        (Call(2, "stat", "a"), ["a"]),
        (Call(3, "get", "a"), ["a"]),
        (Call(4, "list", "b"), ["a"]),
        (Call(5, "delete", "a"), ["a"]),
    ]
    assert storage.calls == [call for call, _ in seen]
