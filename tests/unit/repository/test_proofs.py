"""The chain of proofs beside what others plant there: it neither ends nor forks, and damage does not join it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from functools import partial

import pytest

from drkit.errors import IntegrityError
from drkit.operations.keys import key_list
from drkit.repository.check import check_repository
from drkit.repository.format.limits import SEALED
from drkit.repository.keys.identity import Identity
from drkit.repository.proofs import Proof, add_proof, read_proofs
from drkit.repository.repository import Repository
from drkit.storage.base import Storage
from tests.support.faulty_storage import Call, FaultyStorage
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import NOW, create
from tests.support.schedule import Scheduler


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def identity(storage: MemoryStorage) -> Identity:
    return create(storage)[1]


@pytest.fixture
def repository(storage: MemoryStorage, identity: Identity) -> Repository:
    return Repository.open(storage, [identity])


def key(number: int) -> str:
    return f"proofs/{number:010d}"


def prove(repository: Repository, about: str = "") -> Proof:
    return add_proof(repository, "key", {"recipient": about}, now=NOW, host="h", version="1")


def found(repository: Repository) -> list[int | str]:
    """Proofs by number, and errors by the objects that they name."""
    return [each.number if isinstance(each, Proof) else each.object_name for each in read_proofs(repository)]


GARBAGE: dict[str, Callable[[Repository, str], bytes]] = {
    "garbage": lambda repository, name: b"garbage",
    "empty": lambda repository, name: b"",
    "too large": lambda repository, name: bytes(SEALED["proof"].stored + 1),
    "another kind": lambda repository, name: repository.objects.seal("mark", name[7:].encode(), b""),
    "another number": lambda repository, name: repository.objects.seal("proof", b"0000000077", b"{}"),
    "sealed, but not a proof": lambda repository, name: repository.objects.seal("proof", name[7:].encode(), b"{}"),
}
"""What may lie at a number; the last one only whoever holds the meta key can put there."""


@pytest.mark.parametrize("kind", GARBAGE)
@pytest.mark.parametrize("planted", [[1], [2], [3], [2, 3, 5], [3, 4, 5, 6], [9_999_999_999], [1, 3, 9_999_999_999]])
def test_what_does_not_open_neither_ends_the_chain_nor_joins_it(
    storage: MemoryStorage, repository: Repository, planted: list[int], kind: str
) -> None:
    for number in planted:
        storage.put(key(number), GARBAGE[kind](repository, key(number)))
    free = [number for number in range(1, 20) if number not in planted]
    proofs = [prove(repository) for _ in range(4)]
    assert [each.number for each in proofs] == free[:4]
    assert [each.previous for each in proofs] == [None, *(each.digest for each in proofs[:3])]
    assert set(found(repository)) == {*free[:4], *map(key, planted)}
    assert set(check_repository(repository).findings) == set(map(key, planted))
    assert [error.object_name for error in key_list(repository).damaged_proofs] == [key(each) for each in planted]
    for number in planted:  # the cure
        storage.delete(key(number))
    assert found(repository) == free[:4]
    assert check_repository(repository).ok
    assert prove(repository).number == free[3] + 1


def test_garbage_between_is_jumped_over_and_the_gap_is_none(storage: MemoryStorage, repository: Repository) -> None:
    first = prove(repository)
    storage.put(key(2), b"garbage")
    third = prove(repository)
    assert (third.number, third.previous) == (3, first.digest)
    storage.delete(key(2))
    assert found(repository) == [1, 3]
    assert prove(repository).number == 4


def test_a_proof_that_rots_is_named_with_the_one_after_it(storage: MemoryStorage, repository: Repository) -> None:
    for _ in range(3):
        prove(repository)
    storage.objects[key(2)] = storage.objects[key(2)][:-1]
    assert found(repository) == [1, key(2), key(3)]
    assert prove(repository).number == 4
    assert found(repository) == [1, key(2), key(3), 4]


def test_the_last_proof_that_rots_is_replaced_by_none(storage: MemoryStorage, repository: Repository) -> None:
    first, _ = prove(repository), prove(repository)
    storage.objects[key(2)] = b"rotten"
    assert prove(repository).previous == first.digest
    assert found(repository) == [1, key(2), 3]


def test_a_proof_that_is_taken_away_is_still_noticed(storage: MemoryStorage, repository: Repository) -> None:
    for _ in range(4):
        prove(repository)
    storage.delete(key(2))
    storage.put(key(2), b"garbage in its place")
    assert found(repository) == [1, key(2), key(3), 4]
    storage.delete(key(2))
    assert found(repository) == [1, key(3), 4]
    storage.delete(key(1))  # the oldest may go
    assert found(repository) == [3, 4]


def test_the_last_number_ends_the_chain_with_an_error(storage: MemoryStorage, repository: Repository) -> None:
    """Whoever holds the meta key can bring that about, and rewrite all proofs as well."""
    number = 9_999_999_999
    body = storage.objects.pop(key(prove(repository).number))
    payload = repository.objects.open("proof", b"0000000001", body, source="x")
    payload = payload.replace(b'"number": 1', b'"number": %d' % number)
    storage.put(key(number), repository.objects.seal("proof", b"%d" % number, payload))
    with pytest.raises(IntegrityError, match=key(number)):
        prove(repository)


def test_garbage_that_comes_first_is_not_taken_for_our_own(storage: MemoryStorage, identity: Identity) -> None:
    planted: list[str] = []

    def on_call(call: Call) -> None:
        if call.kind == "put" and len(planted) < 3:
            planted.append(call.key)
            storage.put(call.key, b"garbage" if len(planted) < 3 else bytes(SEALED["proof"].stored + 1))

    repository = Repository.open(FaultyStorage(storage, on_call=on_call), [identity])
    assert prove(repository).number == 4
    assert planted == [key(1), key(2), key(3)]


def test_a_number_that_was_taken_and_is_free_again_is_taken_by_one(storage: MemoryStorage, identity: Identity) -> None:
    class Vanishing(FaultyStorage):
        def put(self, key: str, data: bytes, *, locked: bool = True) -> None:  # type: ignore[override]
            try:
                super().put(key, data, locked=locked)
            finally:
                storage.objects.pop("proofs/0000000001", None) if not gone else None
                gone.append(key)

    gone: list[str] = []
    storage.put(key(1), b"garbage")
    original = storage.list

    def hidden(prefix: str):  # type: ignore[no-untyped-def]
        return (info for info in original(prefix) if gone or info.key != key(1))

    storage.list = hidden  # type: ignore[method-assign]
    assert prove(Repository.open(Vanishing(storage), [identity])).number == 1


@pytest.mark.parametrize("part", range(3))
def test_the_chain_never_forks_between_honest_writers(part: int, rng: random.Random) -> None:
    """Three writers and somebody who plants garbage, under random schedules."""
    jumps = 0
    for _ in range(60):
        storage = MemoryStorage()
        _, identity = create(storage)
        scheduler = Scheduler(storage, rng)
        made: list[Proof] = []

        def writer(at: Storage, made: list[Proof] = made, identity: Identity = identity) -> None:
            repository = Repository.open(at, [identity])
            made.extend(prove(repository) for _ in range(2))

        def planter(scheduler: Scheduler = scheduler, storage: MemoryStorage = storage) -> None:
            for _ in range(rng.randrange(12)):
                scheduler.pause("p")
                last = max((int(name[7:]) for name in storage.objects if name.startswith("proofs/")), default=0)
                name = key(rng.choice([last + 1, last + 2, 9_999_999_999]) if last < 9e9 else rng.randrange(1, 9))
                storage.objects.setdefault(name, b"garbage")

        actors = {each: partial(writer, scheduler.storage(each)) for each in ("a", "b", "c")}
        scheduler.run({**actors, "p": planter}, lambda: None)
        assert scheduler.errors == {}
        proofs = [each for each in read_proofs(Repository.open(storage, [identity])) if isinstance(each, Proof)]
        assert sorted(made, key=lambda proof: proof.number) == proofs
        assert len({each.previous for each in proofs}) == len(proofs) == 6
        assert [each.previous for each in proofs] == [None, *(each.digest for each in proofs[:-1])]
        jumps += proofs[-1].number - 6
    assert jumps


def test_the_hash_of_a_proof_is_that_of_its_object(storage: MemoryStorage, repository: Repository) -> None:
    proof = prove(repository)
    assert proof.digest == hashlib.sha256(storage.objects[key(1)]).hexdigest()
