"""Packs that are read whole: once each however many threads ask, a few at a time, and what failures do."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from drkit.errors import IntegrityError, ObjectNotFound, StorageUnavailable
from drkit.repository import pack_cache
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.packs import DATA_MAGIC, PackBuilder, pack_buffer, pack_key
from drkit.repository.pack_cache import PackCache
from drkit.repository.pack_reader import PACKS_AHEAD, PacksRead, read_packs
from drkit.storage.base import MAX_OBJECT
from tests.support.counting_storage import CountingStorage
from tests.support.events import RecordedEvents

SEALER = ObjectSealer(bytes(32), bytes(16))
SIZE = 10_000


def store_pack(storage: CountingStorage, number: int) -> bytes:
    builder = PackBuilder(DATA_MAGIC, pack_buffer())
    builder.add(bytes([number]) * 32, bytes(16), bytes([number]) * SIZE, SIZE)
    pack_id = builder.finish(SEALER)
    storage.put(pack_key(pack_id), builder.body)
    return pack_id


class Slow(CountingStorage):
    """Notes how many whole packs are read at the same time."""

    def __init__(self) -> None:
        super().__init__(request_size=0)
        self.now = self.most = 0
        self.begun = threading.Event()
        self.error: Exception | None = None
        self.lock = threading.Lock()

    def get(self, key: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT) -> bytes:
        if length is not None:
            return super().get(key, offset, length, limit=limit)
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.begun.set()
        try:
            threading.Event().wait(0.01)
            if self.error is not None:
                raise self.error
            return super().get(key, offset, length, limit=limit)
        finally:
            with self.lock:
                self.now -= 1


@pytest.fixture
def storage() -> Slow:
    return Slow()


@pytest.fixture
def pack_ids(storage: Slow) -> list[bytes]:
    return [store_pack(storage, number) for number in range(20)]


def test_many_threads_read_each_pack_once(storage: Slow, pack_ids: list[bytes]) -> None:
    cache = PackCache(storage, SEALER)
    with ThreadPoolExecutor(16) as pool:
        asked = [(number, pack_key(pack_id)) for number, pack_id in enumerate(pack_ids)] * 8
        got = list(pool.map(lambda each: (each[0], cache.get(each[1], 24, 100)), asked))
    assert all(piece == bytes([number]) * 100 for number, piece in got)
    assert set(storage.whole.values()) == {1}
    assert storage.requests == len(pack_ids)
    assert storage.most == PACKS_AHEAD
    assert set(cache.read.whole) == set(pack_ids)
    assert cache.read.bytes == sum(storage.packs.values())


def test_only_what_was_dropped_is_read_by_ranges(
    storage: Slow, pack_ids: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_cache, "HELD", 3 * max(storage.packs.values()))
    cache = PackCache(storage, SEALER)
    for pack_id in pack_ids[:5]:
        cache.get(pack_key(pack_id), 0, 10)
    before = storage.requests
    for pack_id in pack_ids[2:5]:
        cache.get(pack_key(pack_id), 0, 10)
    assert storage.requests == before
    for number, pack_id in enumerate(pack_ids[:2]):
        assert cache.get(pack_key(pack_id), 24, 5) == bytes([number]) * 5
    assert storage.requests == before + 2
    assert set(storage.whole.values()) == {1}


def test_the_rest_is_read_too(storage: Slow, pack_ids: list[bytes]) -> None:
    cache, events = PackCache(storage, SEALER), RecordedEvents()
    cache.get(pack_key(pack_ids[7]), 0, 10)
    cache.read_rest([*pack_ids, bytes(32)], events)
    assert set(cache.read.whole) == set(pack_ids)
    assert set(storage.whole.values()) == {1}
    assert events.bytes["verify"] == sum(storage.packs.values()) - len(storage.objects[pack_key(pack_ids[7])])


def test_a_failure_reaches_everybody_and_is_not_kept(storage: Slow, pack_ids: list[bytes]) -> None:
    cache, key = PackCache(storage, SEALER), pack_key(pack_ids[0])
    storage.error = StorageUnavailable("gone")

    def ask(_: int) -> str:
        with pytest.raises(StorageUnavailable):
            cache.get(key, 0, 10)
        return "failed"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, 0)
        assert storage.begun.wait(10)
        assert pool.submit(ask, 1).result() == first.result() == "failed"
    storage.error = None
    assert cache.get(key, 24, 3) == b"\0\0\0"
    assert cache.read.whole == {}
    with pytest.raises(ObjectNotFound):
        cache.get(pack_key(bytes(32)), 0, 10)


def test_a_damaged_pack_is_noted_and_still_served(storage: Slow, pack_ids: list[bytes]) -> None:
    key = pack_key(pack_ids[0])
    storage.objects[key] = storage.objects[key][:5000] + b"x" + storage.objects[key][5001:7000]
    cache = PackCache(storage, SEALER)
    assert cache.get(key, 24, 100) == bytes(100)
    with pytest.raises(IntegrityError) as caught:
        cache.get(key, 6950, 100)
    assert caught.value.object_name == key
    assert [error.object_name for error in cache.read.damaged] == [key]
    assert storage.requests == 1


def test_packs_come_in_order_and_few_are_read_ahead(storage: Slow, pack_ids: list[bytes]) -> None:
    gone, damaged = pack_ids[3], pack_ids[5]
    del storage.objects[pack_key(gone)]
    storage.objects[pack_key(damaged)] = b"short"
    read = PacksRead()
    found = []
    for pack in read_packs(storage, SEALER, pack_ids):
        read.add(pack)
        found.append(pack.pack_id)
        assert sum(storage.whole.values()) <= len(found) + 1 + PACKS_AHEAD
    assert found == [pack_id for pack_id in pack_ids if pack_id != gone]
    assert read.whole.keys() == set(found) - {damaged}
    assert [error.object_name for error in read.damaged] == [pack_key(damaged)]


def test_leaving_early_ends_the_threads(storage: Slow, pack_ids: list[bytes]) -> None:
    before = threading.active_count()
    packs = read_packs(storage, SEALER, pack_ids)
    next(packs)
    packs.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert sum(storage.whole.values()) <= 2 * PACKS_AHEAD
