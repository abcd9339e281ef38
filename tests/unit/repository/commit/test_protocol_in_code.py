"""The code itself: two runs and two prunes under hundreds of random schedules with crashes (support/schedule.py)."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import pytest

from drkit.errors import IntegrityError, RepositoryLocked
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
    counts: Counter[str] = Counter()
    for number in range(SCHEDULES):
        one_schedule(random.Random(rng.randrange(2**32)), counts, f"part {part}, schedule {number}")
    print(f"{SCHEDULES} schedules: {counts}")
    for each in ("calls", "committed", "fenced", "locked", "crashed", "moved", "deleted"):
        assert counts[each], f"no schedule came to this: {each}"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_marks_that_somebody_makes_unreadable_cost_nothing(
    part: int, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs_module, "PACK_SIZE", 8_000)
    counts: Counter[str] = Counter()
    for number in range(SCHEDULES):
        one_schedule(random.Random(rng.randrange(2**32)), counts, f"part {part}, schedule {number}", garble=True)
    print(f"{SCHEDULES} schedules: {counts}")
    for each in ("committed", "garbled", "planted", "wary", "stopped", "deleted"):
        assert counts[each], f"no schedule came to this: {each}"


def small(rng: random.Random, *bases: Content) -> Content:
    """A few members, some of them of other contents."""
    content = {b"%d" % rng.randrange(1000): rng.randbytes(3000) for _ in range(2)}
    for base in bases:
        content.update({path: data for path, data in base.items() if rng.random() < 0.6})
    return content


def one_schedule(rng: random.Random, counts: Counter[str], name: str, *, garble: bool = False) -> None:
    """`garble`: somebody without a key also makes marks unreadable, and plants one."""
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
        for _ in range(rng.randrange(100) if garble else 0):  # begin while a prune is at work
            scheduler.pause(actor)
        with RunWriter(repository, actor, recipients, host="host") as writer:
            counts["wary"] += writer.unreadable_mark is not None
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

    def garbler() -> None:
        for _ in range(rng.randrange(40)):
            scheduler.pause("m")
            if rng.random() < 0.01:
                counts["planted"] += 1
                storage.objects["marks/x"] = b"planted"
            for key in [key for key in storage.objects if key.startswith("marks/g")]:
                counts["garbled"] += 1
                storage.objects[key] = rng.randbytes(rng.randrange(60))

    if garble:
        actors["m"] = garbler

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
        elif garble and isinstance(error, IntegrityError) and error.object_name.startswith("marks/"):
            counts["stopped"] += 1
        else:
            raise AssertionError(f"{name}: {actor} failed") from error
    counts["crashed"] += len(scheduler.crashed)
    counts["calls"] += scheduler.calls
    counts["committed"] += len(acknowledged) - 1
    found = read_everything(Repository.open(storage, [identity]))
    assert {run: found[run] for run in acknowledged} == {run: contents[run] for run in acknowledged}, f"{name}: lost"
    assert {run: contents[run] for run in found} == found, f"{name}: a snapshot holds something else"
    report = check_repository(Repository.open(storage, [identity]))
    assert report.ok or (garble and all(key.startswith("marks/") for key in report.findings)), (name, report.findings)
    for key in report.findings:  # nobody is at work any more
        storage.delete(key)
    prune_until_clean(Repository.open(storage, [identity]), "old")
    after = read_everything(Repository.open(storage, [identity]))
    assert after == {run: content for run, content in found.items() if run != "old"}, f"{name}: lost by the next prune"
