"""Notes of what was forgotten on purpose: cumulative, create-only, and harmless when they are damaged or planted."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drkit.errors import DrkitError
from drkit.repository import forgot
from drkit.repository.check import check_repository
from drkit.repository.forgot import (
    FORGOT_PREFIX,
    Owner,
    merged,
    note_forgotten,
    note_present,
    ranges_of,
    read_forgotten,
    without,
)
from drkit.repository.format.names import content_name
from drkit.repository.repository import Repository
from drkit.storage.base import Storage
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import create
from tests.support.schedule import Scheduler

OURS, THEIRS = Owner("aa" * 32, "web", "shop"), Owner("bb" * 32, "web", "shop")


@pytest.fixture
def repository() -> Repository:
    return create(MemoryStorage())[0]


def notes(repository: Repository) -> list[str]:
    return [info.key for info in repository.storage.list(FORGOT_PREFIX)]


@given(st.lists(st.integers(1, 60)), st.lists(st.integers(1, 60)))
def test_ranges(numbers: list[int], less: list[int]) -> None:
    ranges = ranges_of(numbers)
    assert {each for first, last in ranges for each in range(first, last + 1)} == set(numbers)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(ranges))
    assert merged([*ranges, *ranges]) == ranges
    assert without(ranges, less) == ranges_of(set(numbers) - set(less))


def test_notes_add_up_in_one_object_a_series(repository: Repository) -> None:
    note_forgotten(repository, {OURS: [1, 2, 3], THEIRS: [7]})
    note_forgotten(repository, {OURS: [5, 4, 9]})
    note_forgotten(repository, {OURS: [2]})
    assert len(notes(repository)) == 2
    found = read_forgotten(repository)
    assert found.ranges == {OURS: [(1, 5), (9, 9)], THEIRS: [(7, 7)]}
    assert [number for number in range(12) if found.explains(OURS, number)] == [1, 2, 3, 4, 5, 9]
    assert not found.explains(Owner(OURS.origin, "db", "shop"), 1)
    note_present(repository, {OURS: [4], THEIRS: [1]})
    assert read_forgotten(repository).ranges[OURS] == [(1, 3), (5, 5), (9, 9)]
    assert check_repository(repository).ok


def test_a_name_tells_nothing(repository: Repository) -> None:
    note_forgotten(repository, {OURS: [1]})
    other = create(MemoryStorage())[0]
    note_forgotten(other, {OURS: [1]})
    assert notes(repository) != notes(other)


def test_names_never_recur(repository: Repository) -> None:
    seen = set()
    for number in range(1, 8):
        note_forgotten(repository, {OURS: [number * 2]})
        [key] = notes(repository)
        assert key not in seen
        seen.add(key)


def damaged_notes(repository: Repository, key: str, whole: bytes) -> Iterator[bytes]:
    """Bodies that are stored under their own hash, so that this is not what is wrong with them."""

    def sealed(payload: object, name: bytes) -> bytes:
        return repository.objects.seal("forgot", name, json.dumps(payload).encode())

    name = key.split("/")[1].encode()
    good = {**OURS._asdict(), "sequences": [[1, 5]], "requires": []}
    yield b""
    yield whole[:-1]
    yield sealed(good, b"another name")
    for change in (
        {"origin": "aa"},
        {"host": "db"},
        {"policy": "\x1b[2J"},
        {"sequences": [[5, 1]]},
        {"sequences": [[0, 1]]},
        {"sequences": [[1, 2**60]]},
        {"sequences": [[1, 2, 3]]},
        {"sequences": [1, 2]},
        {"sequences": "12"},
        {"requires": "x"},
    ):
        yield sealed(good | change, name)
    yield sealed([], name)


def test_a_damaged_note_is_named_and_explains_nothing_and_the_next_one_is_good() -> None:
    for number in range(14):
        repository = create(MemoryStorage())[0]
        storage = repository.storage
        assert isinstance(storage, MemoryStorage)
        note_forgotten(repository, {OURS: [1]})
        [key] = notes(repository)
        every = list(damaged_notes(repository, key, storage.objects.pop(key)))
        assert len(every) == 14
        key = f"{key.rpartition('/')[0]}/{content_name(every[number])}"
        storage.objects[key] = every[number]
        found = read_forgotten(repository)
        assert [error.object_name for error in found.damaged] == [key]
        assert not found.explains(OURS, 1)
        assert set(check_repository(repository).findings) == {key}
        note_forgotten(repository, {OURS: [2]})
        assert read_forgotten(repository).ranges == {OURS: [(2, 2)]}
        assert key in notes(repository)


def test_planted_names(repository: Repository) -> None:
    """Whoever can write to the storage, without a key, can create objects of any name."""
    note_forgotten(repository, {OURS: [1]})
    prefix = notes(repository)[0].rpartition("/")[0]
    hashes = ["0" * 64, "f" * 64, content_name(b"planted")]
    others = ["2", "x", "0" * 63, "0" * 65]
    for name in [*hashes, *others]:
        repository.storage.put(f"{prefix}/{name}", b"planted")
    note_forgotten(repository, {OURS: [2]})
    note_forgotten(repository, {OURS: [3]})
    assert read_forgotten(repository).ranges == {OURS: [(1, 3)]}
    report = check_repository(repository)
    assert set(report.findings) == {f"{prefix}/{name}" for name in hashes}
    assert set(report.notes) == {f"{prefix}/{name}" for name in others}


def test_a_note_that_was_changed_or_moved_is_damaged(repository: Repository) -> None:
    note_forgotten(repository, {OURS: [1], THEIRS: [1]})
    ours, theirs = notes(repository)
    storage = repository.storage
    assert isinstance(storage, MemoryStorage)
    moved = f"{ours.rpartition('/')[0]}/{theirs.rpartition('/')[2]}"
    storage.objects[moved] = storage.objects[theirs]
    assert [error.object_name for error in read_forgotten(repository).damaged] == [moved]


def test_a_note_of_a_newer_drkit_stops_whoever_would_replace_it(repository: Repository) -> None:
    note_forgotten(repository, {OURS: [1]})
    [key] = notes(repository)
    storage = repository.storage
    assert isinstance(storage, MemoryStorage)
    payload = {**OURS._asdict(), "sequences": [[1, 5]], "requires": ["ranges-of-ranges"]}
    del storage.objects[key]
    body = repository.objects.seal("forgot", key.split("/")[1].encode(), json.dumps(payload).encode())
    key = f"{key.rpartition('/')[0]}/{content_name(body)}"
    storage.objects[key] = body
    assert read_forgotten(repository).explains(OURS, 5)
    with pytest.raises(DrkitError, match="made by a newer drkit"):
        note_forgotten(repository, {OURS: [9]})
    assert notes(repository) == [key]


@pytest.mark.parametrize("number", range(60))
def test_several_writers_at_once_lose_nothing(
    repository: Repository, rng: random.Random, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every moment a reader finds all that was acknowledged."""
    monkeypatch.setattr(forgot, "_ATTEMPTS", 10_000)
    storage = repository.storage
    assert isinstance(storage, MemoryStorage)
    note_forgotten(repository, {OURS: [1]})
    scheduler = Scheduler(storage, rng)
    acknowledged = {1}

    def opened(through: Storage) -> Repository:
        ours = Repository.open(storage, repository.identities)
        ours.storage = through
        return ours

    def act(actor: int, ours: Repository) -> None:
        for each in (10 * actor, 10 * actor + 5):
            note_forgotten(ours, {OURS: [each]})
            acknowledged.add(each)

    def check() -> None:
        found = read_forgotten(opened(storage))
        assert all(found.explains(OURS, each) for each in acknowledged)

    crash = rng.choice([None, rng.randrange(1, 12)])
    through = {1: scheduler.storage("1"), 2: scheduler.storage("2"), 3: scheduler.storage("3", crash_at=crash)}
    scheduler.run({str(actor): partial(act, actor, opened(each)) for actor, each in through.items()}, check)
    assert not scheduler.errors
    note_forgotten(repository, {OURS: [99]})
    assert len(notes(repository)) == 1
    found = read_forgotten(repository)
    assert all(found.explains(OURS, each) for each in (1, 10, 15, 20, 25, 99))
