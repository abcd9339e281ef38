"""Small packs become full ones, so that years of small backups do not fill the storage with objects."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from drkit.repository.check import check_repository
from drkit.repository.format import packs as packs_module
from drkit.repository.prune.plan import MANY_SMALL, PrunePlan, plan_prune
from drkit.repository.prune.prune import Options
from drkit.repository.repository import Repository
from tests.support.memory_storage import MemoryStorage
from tests.support.pruning import debris, prune_now
from tests.support.repositories import Content, create, read_everything, write_snapshot

PACK_SIZE = 200_000
SMALL = PACK_SIZE // 8


class Made:
    """Runs that each change one small member of a target."""

    def __init__(self, rng: random.Random) -> None:
        self.storage = MemoryStorage()
        self._rng = rng
        _, self._identity = create(self.storage)
        self.content: Content = {b"large": rng.randbytes(150_000)}
        self.contents: dict[str, Content] = {}
        self._runs = 0
        self.run()

    def open(self) -> Repository:
        return Repository.open(self.storage, [self._identity])

    def run(self, size: int = 3000) -> None:
        run = f"{self._runs:04d}"
        self.content = {**self.content, b"%d" % (self._runs % 5): self._rng.randbytes(size)}
        self._runs += 1
        self.contents[run] = self.content
        write_snapshot(self.open(), [self._identity.recipient], run, {"v": self.content})

    def runs(self, count: int, size: int = 3000) -> None:
        for _ in range(count):
            self.run(size)

    def right(self) -> bool:
        return read_everything(self.open()) == {run: {"v": content} for run, content in self.contents.items()}

    def plan(self, max_repack: int = 1 << 40) -> PrunePlan:
        return plan_prune(self.open(), lambda snapshots: set(), max_repack)

    def kinds(self, *, small: bool = False) -> Counter[bytes]:
        """How many packs of each kind are stored."""
        bodies = [body for key, body in self.storage.objects.items() if key.startswith("packs/")]
        return Counter(bytes(body[:8]) for body in bodies if not small or packs_module.is_small(len(body)))


@pytest.fixture
def made(rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setattr(packs_module, "PACK_SIZE", PACK_SIZE)
    return Made(rng)


def test_many_small_packs_become_few(made: Made) -> None:
    made.runs(40)
    assert made.kinds(small=True) == {packs_module.DATA_MAGIC: 40, packs_module.TREE_MAGIC: 41}
    prune_now(made.open())
    assert made.kinds(small=True).total() <= 2
    assert made.kinds().total() <= 4
    assert made.right()
    assert check_repository(made.open()).ok
    assert debris(made.open()) == []
    objects = dict(made.storage.objects)
    done = prune_now(made.open(), "again")
    assert (done.packs_stored, done.packs_deleted) == (0, 0)
    assert made.storage.objects == objects


def test_few_small_packs_stay(made: Made) -> None:
    made.runs(MANY_SMALL - 2)
    assert made.plan().moving == {}
    made.runs(1)  # the first run's tree is the sixteenth one
    kinds = {made.storage.objects[packs_module.pack_key(pack_id)][:8] for pack_id in made.plan().moving}
    assert kinds == {packs_module.TREE_MAGIC}
    made.runs(1)
    assert len(made.plan().moving) == MANY_SMALL + MANY_SMALL + 1


def test_packs_that_are_not_small_stay(made: Made) -> None:
    made.runs(40, size=SMALL)
    assert made.kinds(small=True)[packs_module.DATA_MAGIC] == 0
    prune_now(made.open())
    assert made.kinds()[packs_module.DATA_MAGIC] == 41


@pytest.mark.parametrize("packs", [0, 1, 2, 7])
def test_a_limit_is_kept_and_every_prune_within_it_gains(made: Made, packs: int) -> None:
    """A prune that moved one small pack alone would only make another one, every night again."""
    made.runs(40)
    limit = packs * max(made.plan().moving.values())
    before = made.kinds(small=True).total()
    plan = made.plan(limit)
    assert sum(plan.moving.values()) <= limit
    assert len(plan.moving) != 1
    assert len(plan.moving) + len(plan.postponed) == before
    for number in range(60):
        moving = bool(made.plan(limit).moving)
        prune_now(made.open(), f"p{number}", options=Options(limit, True))
        after = made.kinds(small=True).total()
        if not moving:
            break
        assert after < before
        before = after
    else:
        raise AssertionError("the prunes never had enough")
    assert made.right()


def test_what_is_mostly_dead_is_moved_first(made: Made) -> None:
    made.runs(40)
    forgotten = list(made.contents)[:20]
    plan = plan_prune(made.open(), lambda snapshots: set(forgotten), 1)
    assert plan.moving == {}
    prune_now(made.open(), "p", *forgotten)
    for run in forgotten:
        del made.contents[run]
    assert made.right()
    again = prune_now(made.open(), "again")
    assert (again.packs_stored, again.packs_deleted) == (0, 0)


@pytest.mark.parametrize("every", [1, 30])
def test_a_backup_a_day_for_years(made: Made, rng: random.Random, every: int) -> None:
    """With a prune a day or a month, only records and keys would grow; here the last 20 snapshots are kept."""
    most: Counter[str] = Counter()
    for day in range(150):
        made.runs(1, size=rng.choice([500, 3000]))
        if day % every == every - 1:
            forgotten = list(made.contents)[:-20]
            prune_now(made.open(), f"prune-{day:04d}", *forgotten)
            for run in forgotten:
                del made.contents[run]
        if day > 60:
            counts = Counter(key.split("/")[0] for key in made.storage.objects)
            most |= counts
    assert most["snapshots"] <= 20 + every
    assert most["packs"] <= 2 * (MANY_SMALL + every) + 12
    assert most["index"] <= 2 * (MANY_SMALL + every)
    assert most["marks"] == most["sessions"] == 0
    assert made.right()
    assert check_repository(made.open()).ok
