"""A store that answers 200 and keeps nothing, for each kind of object: what drops is noticed, and when."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from drkit.errors import IntegrityError
from drkit.repository.forgot import Owner, note_forgotten, read_forgotten
from drkit.repository.format import packs as packs_module
from drkit.repository.keys.identity import generate_identity
from drkit.repository.mirror.mirror import create_mirror
from drkit.repository.proofs import add_proof
from drkit.repository.repository import Repository
from drkit.storage.base import Data, Storage
from drkit.storage.cached import CachedStorage
from tests.support.dropping_storage import Dropping
from tests.support.memory_storage import MemoryStorage
from tests.support.mirroring import copy_all, make_mirror
from tests.support.pruning import prune_now, prune_until_clean
from tests.support.repositories import NOW, Content, create, random_content, read_everything, write_snapshot

Act = Callable[[Storage], object]


def noticed(act: Act, storage: Storage, prefix: str, at: int = 1) -> str:
    """Do something whose put is dropped; it must fail and name the object. Returns its key."""
    dropping = Dropping(storage, prefix, at)
    with pytest.raises(IntegrityError) as caught:
        act(dropping)
    assert dropping.dropped, "nothing was dropped"
    assert caught.value.exit_code == 20
    assert dropping.dropped in str(caught.value)
    return dropping.dropped


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs_module, "PACK_SIZE", 300_000)


@pytest.mark.parametrize(
    ("prefix", "at"), [("keys/recipients/meta/", 1), ("keys/meta/", 1), ("keys/meta/", 2), ("config", 1)]
)
def test_init(prefix: str, at: int) -> None:
    storage = MemoryStorage()
    other = generate_identity()
    noticed(lambda dropping: create(dropping, other), storage, prefix, at)
    repository, _ = create(MemoryStorage() if prefix == "config" else storage)
    assert repository.id


@pytest.mark.parametrize("prefix", ["keys/recipients/meta/", "keys/meta/", "config"])
def test_init_of_a_mirror(prefix: str) -> None:
    source, _ = create(MemoryStorage())
    make = partial(create_mirror, source, now=NOW, single_writer=False)
    noticed(lambda dropping: make(dropping), MemoryStorage(), prefix)


class Made:
    def __init__(self, rng: random.Random) -> None:
        self.storage = MemoryStorage()
        self.rng = rng
        self.identity = create(self.storage)[1]
        self.other = generate_identity()
        self.old = random_content(rng, 22)
        # Its first packs stay, others are moved or go: a prune stores both new packs and a new list of old ones.
        self.kept = {**random_content(rng, 3), **dict([*list(self.old.items())[:12], *list(self.old.items())[::4]])}
        for run, content in (("old", self.old), ("kept", self.kept)):
            write_snapshot(self.open(self.storage), self.recipients, run, {"v": content})
        self.keys = {info.key for info in self.storage.list("keys/")}

    @property
    def recipients(self) -> list[str]:
        return [self.identity.recipient, self.other.recipient]

    def open(self, storage: Storage) -> Repository:
        return Repository.open(storage, [self.identity])

    def backup(self, storage: Storage, run: str = "new") -> Content:
        content = random_content(self.rng, 6)
        write_snapshot(self.open(storage), self.recipients, run, {"v": content})
        return content


@pytest.fixture
def made() -> Made:
    return Made(random.Random(1))  # whose prune moves chunks, and lists packs that stay once more


BACKUP = [
    ("sessions/", 1),
    ("keys/recipients/", 1),
    ("keys/", 2),  # the first wrap
    ("keys/", 3),
    ("packs/", 1),
    ("packs/", 2),
    ("index/", 1),
    ("snapshots/", 1),
]


@pytest.mark.parametrize("cached", [False, True], ids=["", "cached"])
@pytest.mark.parametrize(("prefix", "at"), BACKUP)
def test_backup(made: Made, prefix: str, at: int, cached: bool, tmp_path: Path) -> None:
    def act(dropping: Storage) -> None:
        made.backup(CachedStorage(dropping, tmp_path / "cache") if cached else dropping)

    noticed(act, made.storage, prefix, at)
    assert read_everything(made.open(made.storage)).keys() == {"old", "kept"}
    content = made.backup(made.storage, "again")
    prune_until_clean(made.open(made.storage), "old")
    assert read_everything(made.open(made.storage)) == {"kept": {"v": made.kept}, "again": {"v": content}}


@pytest.mark.parametrize(
    ("prefix", "at"), [("sessions/", 1), ("marks/", 1), ("packs/", 1), ("index/", 1), ("index/", 2), ("snapshots/", 1)]
)
def test_prune(made: Made, prefix: str, at: int) -> None:
    noticed(lambda dropping: prune_now(made.open(dropping), "prune-1", "old"), made.storage, prefix, at)
    assert read_everything(made.open(made.storage))["kept"] == {"v": made.kept}
    prune_until_clean(made.open(made.storage))
    assert read_everything(made.open(made.storage))["kept"] == {"v": made.kept}


def test_a_prune_that_fences(made: Made) -> None:
    """The tombstone of a run that stands still: without it the run could commit what the prune deletes."""
    repository = made.open(made.storage)
    body = repository.objects.seal("session", b"dead", b'{"run": "dead", "host": "host"}')
    made.storage.put("sessions/dead/0", body)
    key = noticed(lambda dropping: prune_now(made.open(dropping), "prune-1", "old"), made.storage, "snapshots/")
    assert key == "snapshots/dead"


def test_a_proof(made: Made) -> None:
    def act(dropping: Storage) -> None:
        add_proof(made.open(dropping), "key", {}, now=NOW, host="host", version="0")

    noticed(act, made.storage, "proofs/")


def test_a_note_of_what_was_forgotten(made: Made) -> None:
    """It is stored once more; where the store drops every one, nothing is deleted."""
    owner = Owner("aa" * 32, "web", "shop")
    dropping = Dropping(made.storage, "forgot/")
    note_forgotten(made.open(dropping), {owner: [1]})
    assert dropping.dropped
    assert read_forgotten(made.open(made.storage)).explains(owner, 1)

    class Never(Dropping):
        def put(self, key: str, data: Data, *, locked: bool = True) -> None:
            self.left = 1
            super().put(key, data, locked=locked)

    with pytest.raises(IntegrityError, match="acknowledged forgot/"):
        note_forgotten(made.open(Never(made.storage, "forgot/")), {owner: [2]})
    assert read_forgotten(made.open(made.storage)).explains(owner, 1)


@pytest.mark.parametrize("prefix", ["keys/recipients/", "keys/", "packs/", "index/", "snapshots/", "sessions/"])
def test_copy(made: Made, prefix: str) -> None:
    source, mirror = made.open(made.storage), MemoryStorage()
    make_mirror(source, mirror)
    dropping = Dropping(mirror, prefix)
    try:
        done = copy_all(source, dropping)
    except IntegrityError as error:
        assert dropping.dropped in str(error)
    else:
        assert any(dropping.dropped in each.error for each in done.failed)
        assert done.error is not None
    assert dropping.dropped
    held = read_everything(made.open(mirror))
    assert all(content in ({"v": made.old}, {"v": made.kept}) for content in held.values())
    assert not copy_all(source, mirror).failed
    assert len(read_everything(made.open(mirror))) == 2
