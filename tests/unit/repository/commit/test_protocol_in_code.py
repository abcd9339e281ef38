"""The code itself: two runs and two prunes under hundreds of random schedules with crashes (support/schedule.py)."""

from __future__ import annotations

import random
from functools import partial

import pytest

from drkit.errors import RepositoryLocked
from drkit.repository.absence import missing_in
from drkit.repository.check import check_repository
from drkit.repository.format import packs as packs_module
from drkit.repository.format.snapshot import Previous, Snapshot, Target, format_time
from drkit.repository.prune.prune import Prune
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from tests.support.memory_storage import MemoryStorage
from tests.support.pruning import ALL, prune_until_clean
from tests.support.repositories import NOW, Content, create, put_content, read_everything, sign, write_snapshot
from tests.support.schedule import Scheduler, TurnClock

SCHEDULES = 150


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_two_runs_and_two_prunes_lose_nothing(part: int, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs_module, "PACK_SIZE", 8_000)
    counts = dict.fromkeys(("calls", "committed", "fenced", "locked", "crashed", "moved", "deleted"), 0)
    for number in range(SCHEDULES):
        one_schedule(random.Random(rng.randrange(2**32)), counts, f"part {part}, schedule {number}")
    print(f"{SCHEDULES} schedules: {counts}")
    assert min(counts.values()) > 0, "a schedule never came to this"


def small(rng: random.Random, *bases: Content) -> Content:
    """A few members, some of them of other contents."""
    content = {b"%d" % rng.randrange(1000): rng.randbytes(3000) for _ in range(2)}
    for base in bases:
        content.update({path: data for path, data in base.items() if rng.random() < 0.6})
    return content


def one_schedule(rng: random.Random, counts: dict[str, int], name: str) -> None:
    storage = MemoryStorage()
    _, identity = create(storage)
    recipients = [identity.recipient]
    old = small(rng)
    kept = small(rng, old)
    contents = {
        "old": {"v": old},
        "kept": {"v": kept},
        "w1": {"v": small(rng, old)},
        "w2": {"v": small(rng, old, kept)},
    }
    for number, (run, before) in enumerate((("old", None), ("kept", Previous("old", 1))), 1):
        write_snapshot(
            Repository.open(storage, [identity]), recipients, run, contents[run], number=number, previous=before
        )
    scheduler = Scheduler(storage, rng)
    acknowledged: set[str] = {"kept"}

    def opened(actor: str) -> Repository:
        crash_at = rng.randrange(3, 60) if rng.random() < 0.3 else None
        repository = Repository.open(storage, [identity])
        repository.storage = scheduler.storage(actor, crash_at=crash_at)
        return repository

    def run(actor: str, repository: Repository) -> None:
        with RunWriter(repository, actor, recipients, host="host") as writer:
            target = Target("volume", "v")
            put_content(repository, writer, target, contents[actor]["v"], piece=1500)
            record = Snapshot(actor, format_time(NOW), "host", "policy", "ok", [target])
            writer.commit(record, sign(repository, record, 2 + int(actor[1:]), Previous("kept", 2)))
            acknowledged.add(actor)

    def prune(actor: str, repository: Repository) -> None:
        clock = TurnClock(scheduler, actor)
        done = Prune(repository, actor, lambda snapshots: {"old"}, ALL, host="host", clock=clock).run()  # type: ignore[arg-type]
        counts["moved"] += done.packs_stored
        counts["deleted"] += done.packs_deleted
        counts["fenced"] += len(done.fenced)

    actors = {each: partial(run, each, opened(each)) for each in ("w1", "w2")}
    actors |= {each: partial(prune, each, opened(each)) for each in ("g1", "g2")}

    def check() -> None:
        there = {key.removeprefix("snapshots/") for key in storage.objects if key.startswith("snapshots/")}
        assert acknowledged <= there, f"{name}: gone"
        if "snapshots/old" not in storage.objects:
            opened = Repository.open(storage, [identity])
            assert not missing_in(opened, [each for each in opened.snapshots() if isinstance(each, Snapshot)]), name
        if rng.random() < 0.01:
            read_everything(Repository.open(storage, [identity]))

    scheduler.run(actors, check)
    for actor, error in scheduler.errors.items():
        if isinstance(error, RepositoryLocked):
            counts["locked"] += 1
        else:
            raise AssertionError(f"{name}: {actor} failed") from error
    counts["crashed"] += len(scheduler.crashed)
    counts["calls"] += scheduler.calls
    counts["committed"] += len(acknowledged) - 1
    found = read_everything(Repository.open(storage, [identity]))
    assert {run: found[run] for run in acknowledged} == {run: contents[run] for run in acknowledged}, f"{name}: lost"
    assert {run: contents[run] for run in found} == found, f"{name}: a snapshot holds something else"
    report = check_repository(Repository.open(storage, [identity]))
    assert report.ok, (name, report.findings)
    prune_until_clean(Repository.open(storage, [identity]), "old")
    after = read_everything(Repository.open(storage, [identity]))
    assert after == {run: content for run, content in found.items() if run != "old"}, f"{name}: lost by the next prune"
