"""Objects that somebody planted who can write to the storage, and holds no key: huge, odd, or garbage.

`check` names what is damaged, and nothing else stops: reading, backups, copies. What must stop says why.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from drkit.errors import IntegrityError
from drkit.operations.keys import key_list, rewrap_keys
from drkit.repository.check import check_packs, check_repository
from drkit.repository.commit.single_writer import require_single_writer
from drkit.repository.holders.every_key import open_every_key
from drkit.repository.keys.identity import Identity
from drkit.repository.locks import renew_locks
from drkit.repository.proofs import add_proof, read_proofs
from drkit.repository.repair import repair_index
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.storage import Storage, open_storage
from drkit.storage.base import Traits
from tests.support.memory_storage import MemoryStorage
from tests.support.mirroring import copy_all, make_mirror
from tests.support.pruning import FastClock, prune_now
from tests.support.repositories import NOW, Content, create, read_everything, write_snapshot

HASH = "0123456789abcdef" * 4
HUGE = 50 << 30


@dataclass(frozen=True)
class Made:
    storage: Storage
    identity: Identity
    content: dict[str, Content]
    data_key: str

    def open(self) -> Repository:
        return Repository.open(self.storage, [self.identity])

    def write(self, run_id: str) -> None:
        write_snapshot(self.open(), [self.identity.recipient], run_id, self.content)

    def right(self, *runs: str) -> bool:
        return read_everything(self.open()) == dict.fromkeys(runs, self.content)


def make(storage: Storage) -> Made:
    _, identity = create(storage)
    content = {"v": {b"": bytes(512), b"file": bytes(range(256)) * 100}}
    made = Made(storage, identity, content, "")
    made.write("1")
    key = next(info.key for info in storage.list("keys/") if info.key.split("/")[1] not in ("meta", "recipients"))
    return Made(storage, identity, content, key.split("/")[1])


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(open_storage(str(tmp_path / "repository"), create=True))


@pytest.fixture
def in_memory() -> Made:
    return make(MemoryStorage())


def plant_huge(made: Made, key: str) -> None:
    """A sparse file: it takes no space."""
    path = Path(made.storage.url) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, HUGE)


NOT_FATAL = [
    f"keys/meta/{HASH}",
    f"keys/meta/{'0' * 64}",
    "keys/DATA/" + "0" * 64,
    f"keys/escrow/{HASH}",
    f"keys/recipients/meta/{HASH}",
    f"keys/recipients/DATA/{HASH}",
    f"index/{HASH}",
    f"packs/01/{HASH}",
    "sessions/x/0",
    "marks/x",
    "proofs/0000000001",
    "proofs/9999999999",
    "snapshots/x",
]


@pytest.mark.parametrize("key", NOT_FATAL)
def test_a_huge_object_is_named_and_stops_nothing_else(made: Made, key: str) -> None:
    key = key.replace("DATA", made.data_key)
    plant_huge(made, key)
    tracemalloc.start()
    try:
        report = check_repository(made.open())
        assert set(report.findings) == {key}
        assert str(HUGE) in report.findings[key].problem
        assert report.bytes < 1 << 20
        assert set(check_packs(made.open()).findings) == {key}
        repository = made.open()
        content = [each for each in repository.snapshots() if not isinstance(each, IntegrityError)]
        assert [each.id for each in content] == ["1"]
        if not key.startswith("snapshots/"):
            assert made.right("1")
        repair_index(made.open())
        open_every_key(made.open())
        key_list(made.open())
        add_proof(made.open(), "key", {}, now=NOW, host="h", version="1")
        made.write("2")
        mirror = MemoryStorage()
        make_mirror(made.open(), mirror)
        assert [each.snapshot for each in copy_all(made.open(), mirror).copied] == ["2", "1"]
        assert tracemalloc.get_traced_memory()[1] < 150 << 20  # packs of a run being filled, which take 64 MiB each
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("key", [key for key in NOT_FATAL if not key.startswith(("marks/", "snapshots/"))])
def test_a_prune_goes_on_beside_a_huge_object(made: Made, key: str) -> None:
    key = key.replace("DATA", made.data_key)
    plant_huge(made, key)
    made.write("2")
    if key.startswith("index/"):  # it could list packs that nothing else does; none is unlisted here
        assert repair_index(made.open()).packs == 0
    prune_now(made.open(), "prune", "1")
    assert made.right("2")


@pytest.mark.parametrize("key", ["marks/x", "snapshots/x"])
def test_what_hides_what_is_needed_stops_a_prune(made: Made, key: str) -> None:
    plant_huge(made, key)
    with pytest.raises(IntegrityError, match=key) as caught:
        prune_now(made.open(), "prune", "1")
    assert caught.value.object_name == key
    assert "elete" in (caught.value.hint or "") or "forget" in (caught.value.hint or "")
    assert list(made.storage.list("sessions/")) == []


def test_a_huge_config_is_damaged(made: Made) -> None:
    (Path(made.storage.url) / "config").unlink()
    plant_huge(made, "config")
    with pytest.raises(IntegrityError, match=rf"config .* damaged: .*{HUGE}") as caught:
        made.open()
    assert caught.value.object_name == "config"


def test_the_only_wrap_made_huge_is_damage_and_not_a_wrong_identity(made: Made) -> None:
    [wrap] = [info.key for info in made.storage.list("keys/meta/")]
    (Path(made.storage.url) / wrap).unlink()
    plant_huge(made, wrap)
    with pytest.raises(IntegrityError, match=wrap) as caught:
        made.open()
    assert caught.value.object_name == wrap


# --- names that no object has -----------------------------------------------------------------------------------------

ODD = [
    "configs",
    "config.old",
    "keys",
    "keys/meta",
    "keys/zz",
    "keys/meta/zz",
    "keys/meta/a/b",
    "keys/DATA",
    "keys/DATA/zz",
    f"keys/other/{HASH}",
    "keys/escrow",
    "keys/escrow/zz",
    "keys/recipients",
    "keys/recipients/zz",
    "keys/recipients/meta",
    "keys/recipients/meta/zz",
    "keys/recipients/meta/a/b",
    f"keys/{'f' * 32}/zz",
    "packs",
    "packs/aa",
    "packs/readme",
    f"packs/02/{HASH}",
    f"packs/01/{HASH}/x",
    "index",
    "index/zz",
    f"index/{HASH}/x",
    "snapshots",
    "snapshots/x/y",
    "sessions",
    "sessions/x",
    "sessions/x/y",
    "sessions/x/1/y",
    f"sessions/x/{'9' * 200}x",
    "marks",
    "marks/x/y",
    "proofs",
    "proofs/abc",
    "proofs/0000000000",
    "proofs/00000000001",
    "proofs/0000000001/x",
    "program",
    "program/a/b",
    "probe/x",
    "stranger",
]


@pytest.mark.parametrize("key", ODD)
def test_an_object_under_another_name_is_noted_and_ignored(in_memory: Made, key: str) -> None:
    made = in_memory
    key = key.replace("DATA", made.data_key)
    made.storage.put(key, b"odd")
    report = check_repository(made.open())
    assert report.findings == {}
    assert report.notes == {key: "not part of the repository"}
    assert check_packs(made.open()).ok
    assert made.right("1")
    assert open_every_key(made.open()).keys == 2
    assert key_list(made.open()).unlabelled == 0
    assert rewrap_keys(made.open(), [made.identity.recipient]).made == 0
    assert repair_index(made.open()).damaged == []
    assert list(read_proofs(made.open())) == []
    assert add_proof(made.open(), "key", {}, now=NOW, host="h", version="1").number == 1
    clock = FastClock()
    assert (
        require_single_writer(made.storage, "me", single_writer=True, clock=clock.now, sleep=clock.sleep) == frozenset()
    )
    assert clock.time == 0
    made.write("2")
    mirror = MemoryStorage()
    make_mirror(made.open(), mirror)
    assert len(copy_all(made.open(), mirror).copied) == 2
    prune_now(made.open(), "prune", "1")
    assert made.right("2")


def test_every_odd_name_at_once(in_memory: Made) -> None:
    made = in_memory
    planted = {key.replace("DATA", made.data_key) for key in ODD}
    for key in planted:
        made.storage.put(key, b"odd")
    report = check_repository(made.open())
    assert (report.findings, set(report.notes)) == ({}, planted)
    made.write("2")
    prune_now(made.open(), "prune", "1")
    assert made.right("2")


# --- garbage under names that objects have ----------------------------------------------------------------------------


def test_a_planted_mark_lets_runs_go_on_and_stops_a_prune_until_it_is_deleted(in_memory: Made) -> None:
    made = in_memory
    made.storage.put("marks/20250309t010203z-0a1b2c3d", b"garbage")
    with RunWriter(made.open(), "x", [made.identity.recipient], host="h") as writer:
        assert writer.unreadable_mark is not None
    before = len(list(made.storage.list("packs/")))
    made.write("2")
    assert len(list(made.storage.list("packs/"))) == 2 * before
    assert made.right("1", "2")
    assert set(check_repository(made.open()).findings) == {"marks/20250309t010203z-0a1b2c3d"}
    with pytest.raises(IntegrityError, match="what this mark condemns is unknown") as caught:
        prune_now(made.open(), "prune", "1")
    assert caught.value.exit_code == 20
    assert caught.value.hint == (
        "Once no drkit prune is at work there, from any host, delete marks/20250309t010203z-0a1b2c3d from memory:."
    )
    assert made.right("1", "2")
    made.storage.delete(caught.value.object_name)
    prune_now(made.open(), "prune", "1")
    assert made.right("2")


def test_a_mark_that_another_repository_made_is_garbage(in_memory: Made) -> None:
    other = make(MemoryStorage())
    in_memory.storage.put("marks/p", other.open().objects.seal("mark", b"p", bytes(64)))
    in_memory.storage.put("marks/q", in_memory.open().objects.seal("mark", b"p", bytes(64)))  # moved
    assert set(check_repository(in_memory.open()).findings) == {"marks/p", "marks/q"}


def test_a_copy_stops_at_a_mark_of_the_mirror_that_does_not_open(in_memory: Made) -> None:
    """It could not tell which keys are about to go there, and would send every chunk again for each snapshot."""
    made, mirror = in_memory, MemoryStorage()
    make_mirror(made.open(), mirror)
    mirror.put("marks/p", b"garbage")
    with pytest.raises(IntegrityError, match="marks/p") as caught:
        copy_all(made.open(), mirror)
    assert "delete marks/p from memory:" in (caught.value.hint or "")
    assert list(mirror.list("packs/")) == list(mirror.list("sessions/")) == []
    mirror.delete("marks/p")
    assert len(copy_all(made.open(), mirror).copied) == 1
    made.storage.put("marks/p", b"garbage")  # in the source it does not matter: nothing is stored there
    made.write("2")
    assert len(copy_all(made.open(), mirror).copied) == 1


class Locking(MemoryStorage):
    """A store whose objects are locked. Notes which locks are renewed."""

    def __init__(self) -> None:
        super().__init__(Traits(locks=True))

    def renew_locks(self, prefixes: Sequence[str], needed: Callable[[str], bool]) -> int:
        self.renewed = {key for key in self.objects if key.startswith(tuple(prefixes)) and needed(key)}
        return len(self.renewed)


def test_locks_of_what_an_unreadable_mark_may_list_are_renewed() -> None:
    """Longer, never shorter: else garbage under a mark's name would let the locks of everything run out."""
    storage = Locking()
    made = make(storage)
    packs = {info.key for info in storage.list("packs/")}
    ids = b"".join(bytes.fromhex(key.rpartition("/")[2]) for key in packs)
    storage.put("marks/p", made.open().objects.seal("mark", b"p", ids))
    renew_locks(made.open(), {"1"})
    assert not storage.renewed & packs
    storage.objects["marks/p"] = b"garbage"
    renew_locks(made.open(), {"1"})
    assert storage.renewed >= packs | {"config", "snapshots/1"}
