"""The code itself: two copies into a mirror and two prunes of it under hundreds of random schedules with crashes."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest

from drkit.errors import RepositoryLocked
from drkit.operations.copy import copy_into
from drkit.repository.check import check_repository
from drkit.repository.format import packs as packs_module
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.mirror.mirror import open_mirror
from drkit.repository.prune.prune import Prune
from drkit.repository.repository import Repository
from tests.support.memory_storage import MemoryStorage
from tests.support.mirroring import by_original, copy_all, make_mirror
from tests.support.pruning import ALL, prune_until_clean
from tests.support.repositories import Content, create, write_snapshot
from tests.support.schedule import Scheduler, TurnClock

SCHEDULES = 100
OLD, KEPT = "20250301t000000z-0ld00000", "20250302t000000z-kept0000"
NEW = ("20250303t000000z-00000001", "20250304t000000z-00000002")


def small_contents(rng: random.Random) -> dict[str, Content]:
    """Members so small that several share a pack; each run keeps some of what earlier ones held."""
    contents: dict[str, Content] = {}
    for run in (OLD, KEPT, *NEW):
        earlier = {path: data for content in contents.values() for path, data in content.items()}
        kept = {path: data for path, data in earlier.items() if rng.random() < 0.3}
        contents[run] = {**kept, **{b"%s-%d" % (run.encode(), number): rng.randbytes(2000) for number in range(4)}}
    return contents


def copies_of_old(snapshots: list[Snapshot]) -> set[str]:
    return {snapshot.id for snapshot in snapshots if snapshot.original == OLD}


@pytest.mark.parametrize("part", range(3))
def test_two_copies_and_two_prunes_lose_nothing(part: int, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prunes forget what the copies bring back all the time: keys come and go under the same names."""
    monkeypatch.setattr(packs_module, "PACK_SIZE", 8_000)
    counts = dict.fromkeys(("calls", "copied", "fenced", "locked", "crashed", "moved", "deleted", "brought back"), 0)
    for number in range(SCHEDULES):
        one_schedule(random.Random(rng.randrange(2**32)), counts, f"part {part}, schedule {number}")
    print(f"{SCHEDULES} schedules: {counts}")
    assert min(counts.values()) > 0, "a schedule never came to this"


def one_schedule(rng: random.Random, counts: dict[str, int], name: str) -> None:
    place, mirror = MemoryStorage(), MemoryStorage()
    source, identity = create(place)
    contents = {run: {"v": content} for run, content in small_contents(rng).items()}
    for run, content in contents.items():
        write_snapshot(source, [identity.recipient], run, content)
    make_mirror(source, mirror)
    copy_all(source, mirror, OLD, KEPT)
    [gone] = copies_of_old([each for each in open_mirror(source, mirror).snapshots() if isinstance(each, Snapshot)])
    mirror.delete(f"snapshots/{gone}")
    scheduler = Scheduler(mirror, rng)
    acknowledged: set[str] = {KEPT}

    def opened(actor: str) -> Repository:
        crash_at = rng.randrange(3, 60) if rng.random() < 0.3 else None
        ours = open_mirror(source, mirror)
        ours.storage = scheduler.storage(actor, crash_at=crash_at)
        return ours

    def copy(actor: str, ours: Repository) -> None:
        done = copy_into(Repository.open(place, [identity]), ours, host=actor)
        assert done.failed == []
        acknowledged.update(each.snapshot for each in done.copied if each.snapshot != OLD)
        counts["copied"] += len(done.copied)
        counts["brought back"] += OLD in {each.snapshot for each in done.copied}

    def prune(actor: str, ours: Repository) -> None:
        clock = TurnClock(scheduler, actor)
        forgotten = copies_of_old if rng.random() < 0.5 else lambda snapshots: set()
        done = Prune(ours, actor, forgotten, ALL, host="host", clock=clock).run()  # type: ignore[arg-type]
        counts["moved"] += done.packs_stored
        counts["deleted"] += done.packs_deleted
        counts["fenced"] += len(done.fenced)

    actors: dict[str, Callable[[], None]] = {each: partial(copy, each, opened(each)) for each in ("c1", "c2")}
    actors |= {each: partial(prune, each, opened(each)) for each in ("g1", "g2")}

    def check() -> None:
        if rng.random() < 0.01:
            held = by_original(mirror, identity)
            assert {run: contents[run] for run in held} == held, f"{name}: a copy holds something else"

    scheduler.run(actors, check)
    for actor, error in scheduler.errors.items():
        if isinstance(error, RepositoryLocked):
            counts["locked"] += 1
        else:
            raise AssertionError(f"{name}: {actor} failed") from error
    counts["crashed"] += len(scheduler.crashed)
    counts["calls"] += scheduler.calls
    held = by_original(mirror, identity)
    assert held == {run: contents[run] for run in held}, f"{name}: a copy holds something else"
    assert acknowledged <= held.keys(), f"{name}: lost"
    assert check_repository(Repository.open(mirror, [identity])).ok, name
    prune_until_clean(Repository.open(mirror, [identity]))
    assert by_original(mirror, identity) == held, f"{name}: lost by the next prune"
    copy_all(source, mirror)
    assert by_original(mirror, identity) == contents, f"{name}: a rerun does not complete"
