"""Copies of small objects: they save requests, and never show anything that the storage does not hold."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import stat
import tracemalloc
from pathlib import Path

import pytest

from drkit.errors import ObjectNotFound, StorageUnavailable
from drkit.repository.repository import Repository
from drkit.storage.cached import PREFIXES, CachedStorage
from tests.support.faulty_storage import FaultyStorage
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import create, random_content, read_everything, write_snapshot


@pytest.fixture
def inner() -> FaultyStorage:
    return FaultyStorage(MemoryStorage())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "copies.sqlite"


@pytest.fixture
def cached(inner: FaultyStorage, path: Path) -> CachedStorage:
    return CachedStorage(inner, path)


def gets(inner: FaultyStorage) -> list[str]:
    """The keys that were got since this was asked last."""
    found = [call.key for call in inner.calls if call.kind == "get"]
    inner.calls.clear()
    return found


def listed(storage: CachedStorage, prefix: str = "snapshots/") -> list[str]:
    return [info.key for info in storage.list(prefix)]


def test_what_was_got_once_is_not_got_again_also_by_the_next_process(inner: FaultyStorage, path: Path) -> None:
    for number in range(20):
        inner.put(f"snapshots/{number:02}", b"record %d" % number)
    for expected in (20, 0, 0):
        cached = CachedStorage(inner, path)
        keys = listed(cached)
        cached.fetch_ahead(keys)
        assert [cached.get(key) for key in keys] == [b"record %d" % number for number in range(20)]
        assert len(gets(inner)) == expected
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_without_a_listing_the_storage_is_asked(inner: FaultyStorage, cached: CachedStorage, path: Path) -> None:
    inner.put("snapshots/1", b"record")
    listed(cached)
    cached.get("snapshots/1")
    gets(inner)
    assert CachedStorage(inner, path).get("snapshots/1") == b"record"
    assert gets(inner) == ["snapshots/1"]


def test_a_name_that_holds_something_else_now(inner: FaultyStorage, cached: CachedStorage) -> None:
    """A snapshot was forgotten, and its name taken by a tombstone."""
    inner.put("snapshots/1", b"a long record")
    listed(cached)
    assert cached.get("snapshots/1") == b"a long record"
    inner.delete("snapshots/1")
    inner.put("snapshots/1", b"fenced")
    assert listed(cached) == ["snapshots/1"]
    assert cached.get("snapshots/1") == b"fenced"


def test_what_is_gone_is_gone(inner: FaultyStorage, cached: CachedStorage, path: Path) -> None:
    inner.put("snapshots/1", b"one")
    inner.put("snapshots/2", b"two")
    for key in listed(cached):
        cached.get(key)
    cached.delete("snapshots/1")
    with pytest.raises(ObjectNotFound):
        cached.get("snapshots/1")
    inner.delete("snapshots/2")
    assert listed(cached) == []
    with pytest.raises(ObjectNotFound):
        cached.get("snapshots/2")
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM objects").fetchone() == (0,)


def test_a_listing_that_breaks_off_removes_no_copy(inner: FaultyStorage, cached: CachedStorage, path: Path) -> None:
    inner.put("index/1", b"one")
    for key in listed(cached, "index/"):
        cached.get(key)
    inner.fail(StorageUnavailable("gone"), kind="list")
    with pytest.raises(StorageUnavailable):
        listed(cached, "index/")
    gets(inner)
    again = CachedStorage(inner, path)
    assert [again.get(key) for key in listed(again, "index/")] == [b"one"]
    assert gets(inner) == []


def test_data_and_ranges_are_not_copied(inner: FaultyStorage, cached: CachedStorage) -> None:
    inner.put("packs/aa/1", b"data")
    inner.put("index/1", b"index")
    listed(cached, "packs/")
    listed(cached, "index/")
    for _ in range(2):
        assert cached.get("packs/aa/1") == b"data"
        assert cached.get("index/1", 1, 2) == b"nd"
    assert gets(inner) == ["packs/aa/1", "index/1"] * 2


def test_what_cannot_be_fetched_ahead_is_raised_by_the_later_get(inner: FaultyStorage, cached: CachedStorage) -> None:
    inner.put("snapshots/1", b"one")
    inner.put("snapshots/2", b"two")
    keys = listed(cached)
    inner.fail(StorageUnavailable("broken"), kind="get", times=3)
    cached.fetch_ahead(keys)
    with pytest.raises(StorageUnavailable, match="broken"):
        cached.get("snapshots/1")
    assert cached.get("snapshots/1") == b"one"


@pytest.mark.parametrize("damage", ["flipped", "no database", "another schema", "a directory", "unwritable"])
def test_damaged_copies_do_no_harm(inner: FaultyStorage, path: Path, damage: str) -> None:
    inner.put("snapshots/1", b"the record")
    first = CachedStorage(inner, path)
    for key in listed(first):
        first.get(key)
    match damage:
        case "flipped":
            with sqlite3.connect(path) as database:
                database.execute("UPDATE objects SET body = ?", (b"tHe record",))
        case "no database":
            path.write_bytes(b"no database at all" * 1000)
        case "another schema":
            with sqlite3.connect(path) as database:
                database.executescript("DROP TABLE objects; CREATE TABLE objects (something INTEGER)")
        case "a directory":
            path.unlink()
            path.mkdir()
        case "unwritable":
            path = Path("/proc/no/such/place.sqlite")
    for _ in range(2):
        cached = CachedStorage(inner, path)
        keys = listed(cached)
        cached.fetch_ahead(keys)
        assert [cached.get(key) for key in keys] == [b"the record"]
    if damage not in ("a directory", "unwritable"):
        gets(inner)
        cached = CachedStorage(inner, path)
        assert [cached.get(key) for key in listed(cached)] == [b"the record"]
        assert gets(inner) == []  # they have been recreated


def test_a_repository_behind_copies_is_the_same(
    inner: FaultyStorage, cached: CachedStorage, path: Path, rng: random.Random
) -> None:
    repository, identity = create(inner)
    content = random_content(rng)
    for run in ("1", "2", "3"):
        write_snapshot(repository, [identity.recipient], run, {"v": content})
    plain = read_everything(Repository.open(inner, [identity]))
    assert set(plain) == {"1", "2", "3"}
    assert read_everything(Repository.open(cached, [identity])) == plain
    gets(inner)
    again = CachedStorage(inner, path)
    assert read_everything(Repository.open(again, [identity])) == plain
    assert not [key for key in gets(inner) if key.startswith(PREFIXES)]
    write_snapshot(Repository.open(again, [identity]), [identity.recipient], "4", {"v": content})
    assert set(read_everything(Repository.open(inner, [identity]))) == {"1", "2", "3", "4"}


def test_a_large_object_is_not_fetched_ahead(inner: FaultyStorage, cached: CachedStorage) -> None:
    """Eight at once would wait in memory, however large whoever planted them has made them."""
    inner.put("snapshots/large", bytes(9 << 20))
    inner.put("snapshots/small", b"record")
    cached.fetch_ahead(listed(cached))
    assert gets(inner) == ["snapshots/small"]
    assert len(cached.get("snapshots/large")) == 9 << 20


def test_a_copy_that_somebody_enlarged_is_not_even_read(
    inner: FaultyStorage, cached: CachedStorage, path: Path
) -> None:
    inner.put("snapshots/1", b"record")
    listed(cached)
    assert cached.get("snapshots/1") == b"record"
    huge = bytes(64 << 20)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE objects SET body = ?, digest = ?", (huge, hashlib.sha256(huge).digest()))
    del huge
    gets(inner)
    tracemalloc.start()
    try:
        assert cached.get("snapshots/1") == b"record"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert gets(inner) == ["snapshots/1"]
