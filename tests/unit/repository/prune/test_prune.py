"""Prune, forget and repair on repositories in memory: what goes, what stays, and what is refused."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from drkit.errors import (
    AccessDenied,
    IntegrityError,
    RepositoryLocked,
    RetentionRefused,
    StorageUnavailable,
)
from drkit.operations.forget import forget_snapshots
from drkit.repository.check import check_repository
from drkit.repository.commit.session import Session, list_sessions
from drkit.repository.format import packs as packs_module
from drkit.repository.format.packs import DATA_MAGIC, PackBuilder, pack_buffer, pack_key
from drkit.repository.format.record import tombstone
from drkit.repository.format.snapshot import Snapshot, Target, format_time
from drkit.repository.index import index_keys
from drkit.repository.keys.labels import Holder, put_label
from drkit.repository.keys.wraps import format_meta_key
from drkit.repository.prune import plan as plan_module
from drkit.repository.prune import reindex
from drkit.repository.prune.plan import plan_prune
from drkit.repository.prune.prune import Options, Prune
from drkit.repository.repair import repair_index
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from tests.support.events import RecordedEvents
from tests.support.faulty_storage import Call, FaultyStorage
from tests.support.memory_storage import MemoryStorage
from tests.support.pruning import ALL, FastClock, debris, is_tombstone, prune_now
from tests.support.repositories import (
    NOW,
    Content,
    create,
    put_content,
    random_content,
    read_everything,
    write_snapshot,
)


class Made:
    """Three snapshots: `kept` shares a little with `old`, `new` nothing."""

    def __init__(self, rng: random.Random) -> None:
        self.storage = MemoryStorage()
        self.repository, self.identity = create(self.storage)
        shared = {b"!1": rng.randbytes(3000)}  # lies in one pack with what only `old` needs
        self.contents: dict[str, Content] = {
            "kept": {**shared, b"own": rng.randbytes(300_000)},
            "new": {**random_content(rng), b"own": rng.randbytes(300_000)},
            "old": {**shared, b"!2": rng.randbytes(300_000), **random_content(rng)},
        }
        for run in ("old", "kept", "new"):
            self.write(run)

    def open(self, storage: MemoryStorage | FaultyStorage | None = None) -> Repository:
        return Repository.open(storage or self.storage, [self.identity])

    def write(self, run: str) -> None:
        write_snapshot(self.open(), [self.identity.recipient], run, {"v": self.contents[run]})

    def right(self, *runs: str) -> bool:
        return read_everything(self.open()) == {run: {"v": self.contents[run]} for run in runs}

    def size(self) -> int:
        return sum(len(body) for key, body in self.storage.objects.items() if key.startswith("packs/"))

    def keys(self, prefix: str) -> list[str]:
        return [key for key in sorted(self.storage.objects) if key.startswith(prefix)]


@pytest.fixture
def made(rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setattr(packs_module, "PACK_SIZE", 200_000)
    return Made(rng)


def test_what_only_a_forgotten_snapshot_needs_goes(made: Made) -> None:
    before = made.size()
    done = prune_now(made.open(), "p", "old")
    assert done.forgotten == ["old"]
    assert done.packs_stored > 0
    assert made.size() == before - done.bytes_deleted + done.bytes_stored < before
    assert made.right("kept", "new")
    assert check_repository(made.open()).ok
    assert debris(made.open()) == []
    assert made.keys("snapshots/") == ["snapshots/kept", "snapshots/new"]


def test_pruning_again_does_nothing(made: Made) -> None:
    prune_now(made.open(), "p", "old")
    objects = dict(made.storage.objects)
    done = prune_now(made.open(), "q")
    assert (done.packs_deleted, done.packs_stored) == (0, 0)
    assert made.storage.objects == objects


def test_the_meta_key_alone_prunes(made: Made) -> None:
    text = format_meta_key(made.repository.meta.meta_key, made.repository.id)
    done = prune_now(Repository.open_write_only(made.storage, text, source="meta.key"), "p", "old")
    assert done.packs_stored > 0
    assert made.right("kept", "new")


def test_a_plan_changes_nothing_and_tells_what_would_be(made: Made) -> None:
    objects = dict(made.storage.objects)
    plan = plan_prune(made.open(), lambda snapshots: {"old"}, ALL.max_repack)
    assert made.storage.objects == objects
    done = prune_now(made.open(), "p", "old")
    assert plan.packs == plan.dead.keys() | plan.moving.keys()
    assert done.packs_deleted == len(plan.packs)


def test_a_limit_postpones_what_is_least_worth(made: Made) -> None:
    whole = plan_prune(made.open(), lambda snapshots: {"old"}, ALL.max_repack)
    none = plan_prune(made.open(), lambda snapshots: {"old"}, 0)
    assert (none.moving, none.postponed) == ({}, whole.moving)
    done = prune_now(made.open(), "p", "old", options=Options(0, True))
    assert (done.packs_stored, done.packs_deleted) == (0, len(whole.dead))
    assert made.right("kept", "new")


def test_keys_go_with_the_last_chunk_under_them(made: Made) -> None:
    assert len(made.keys("keys/")) == 8  # of the meta key and of three runs: a wrap each, and its label
    done = prune_now(made.open(), "p", "old", "kept")
    assert done.keys_deleted == 2
    assert made.right("new")
    assert len(made.keys("keys/")) == 4


def test_a_label_without_wraps_goes_with_the_next_prune(made: Made) -> None:
    """A run, or a prune, that died between a label and its wraps."""
    put_label(made.storage, made.repository.objects, "ab" * 16, {"cd" * 32: Holder("age1x")})
    prune_now(made.open(), "p", "old")
    assert not made.keys(f"keys/recipients/{'ab' * 16}/")
    assert made.right("kept", "new")


def test_a_key_whose_last_chunk_lay_in_a_pack_that_was_moved_goes_later(made: Made, rng: random.Random) -> None:
    """Chunks of two runs come into one pack when they are moved; later only one of the two is needed."""
    made.contents["more"] = {b"!more": rng.randbytes(9000), b"own": rng.randbytes(300_000)}
    made.contents["less"] = {b"!more": made.contents["more"][b"!more"], b"own": rng.randbytes(300_000)}
    for run in ("more", "less"):
        made.write(run)
    prune_now(made.open(), "p", "old", "more")
    prune_now(made.open(), "q", "less")
    prune_now(made.open(), "r")
    assert made.right("kept", "new")
    assert debris(made.open()) == []


# --- refusals: nothing is changed -------------------------------------------------------------------------------------


def refused(made: Made, error: type[Exception], match: str, action: Callable[[], object]) -> None:
    objects = dict(made.storage.objects)
    with pytest.raises(error, match=match):
        action()
    assert made.storage.objects == objects


def test_more_than_half_is_refused(made: Made) -> None:
    def prune() -> object:
        return prune_now(made.open(), "p", "old", "new", options=Options(1 << 40))

    refused(made, RetentionRefused, r"would remove \d+% of the data", prune)
    prune_now(made.open(), "p", "old", "new")
    assert made.right("kept")


def test_a_repository_without_snapshots_is_not_pruned(made: Made) -> None:
    for key in made.keys("snapshots/"):
        del made.storage.objects[key]
    refused(made, RetentionRefused, "shows no snapshot", lambda: prune_now(made.open()))


@pytest.mark.parametrize("prefix", ["snapshots/", "packs/", "index/", "keys/", "marks/", "sessions/"])
def test_a_listing_that_fails_ends_it(made: Made, prefix: str) -> None:
    storage = FaultyStorage(made.storage)
    repository = made.open(storage)
    storage.fail(StorageUnavailable("gone"), kind="list", prefix=prefix)
    refused(made, StorageUnavailable, "gone", lambda: prune_now(repository, "p", "old"))


def test_a_damaged_record_ends_it(made: Made) -> None:
    made.storage.objects["snapshots/kept"] = b"damage"
    refused(made, IntegrityError, "snapshots/kept", lambda: prune_now(made.open(), "p", "old"))


def test_a_tree_that_cannot_be_read_ends_it(made: Made) -> None:
    trees = [key for key in made.keys("packs/") if made.storage.objects[key].startswith(b"DRKITP1t")]
    for key in trees:
        body = made.storage.objects[key]
        made.storage.objects[key] = body[:60] + bytes([body[60] ^ 1]) + body[61:]
    refused(made, IntegrityError, "packs/", lambda: prune_now(made.open(), "p", "old"))


def test_a_missing_pack_ends_it(made: Made) -> None:
    gone = next(key for key in made.keys("packs/") if made.storage.objects[key].startswith(b"DRKITP1d"))
    del made.storage.objects[gone]
    refused(made, IntegrityError, "is in no index", lambda: prune_now(made.open()))


def test_an_index_object_that_is_damaged_or_gone_asks_for_its_repair(made: Made) -> None:
    key = made.keys("index/")[0]
    made.storage.objects[key] = b"damage"
    refused(made, IntegrityError, key, lambda: prune_now(made.open(), "p", "old"))
    assert repair_index(made.open()).packs > 0
    assert repair_index(made.open()).packs == 0
    prune_now(made.open(), "p", "old")
    assert key not in made.storage.objects
    assert made.right("kept", "new")
    del made.storage.objects[made.keys("index/")[0]]
    with pytest.raises(IntegrityError, match="is in no index"):
        prune_now(made.open(), "q")
    repair_index(made.open())
    prune_now(made.open(), "r")
    assert made.right("kept", "new")
    assert debris(made.open()) == []


class At:
    """Does something once, when a storage call of this kind comes."""

    def __init__(self, kind: str, prefix: str, action: Callable[[], object], times: int = 1) -> None:
        self.kind, self.prefix, self.action, self.left = kind, prefix, action, times

    def __call__(self, call: Call) -> None:
        if call.kind == self.kind and call.key.startswith(self.prefix):
            self.left -= 1
            if self.left == 0:
                self.action()


def test_a_snapshot_that_vanishes_meanwhile_ends_it(made: Made) -> None:
    storage = FaultyStorage(made.storage)
    repository = made.open(storage)
    storage.on_call = At("put", "marks/", lambda: made.storage.delete("snapshots/new"))
    with pytest.raises(RetentionRefused, match="snapshot new was there"):
        prune_now(repository, "p", "old")
    assert "snapshots/old" in made.storage.objects
    assert made.keys("marks/") + made.keys("sessions/") == []


# --- beside runs and other prunes -------------------------------------------------------------------------------------


def test_a_run_that_began_before_the_mark_is_waited_for(made: Made) -> None:
    """It counts on chunks of `old`, and commits while the prune waits."""
    writer = RunWriter(made.open(), "late", [made.identity.recipient], host="web")
    target = Target("volume", "v")
    put_content(made.repository, writer, target, made.contents["old"])
    said = RecordedEvents()

    class Clock(FastClock):
        def sleep(self, seconds: float) -> None:
            writer.commit(Snapshot("late", format_time(NOW), "web", "policy", "ok", [target]))
            writer.__exit__(None, None, None)

    prune = Prune(made.open(), "p", lambda snapshots: {"old"}, ALL, host="h", clock=Clock(), events=said)
    done = prune.run()
    made.contents["late"] = made.contents["old"]
    assert made.right("kept", "late", "new")
    assert (done.fenced, len(done.spared)) == ([], len(prune.plan.dead))
    assert said.notes == ["waiting for run late of host web to end"]


def test_a_run_that_stands_still_is_fenced(made: Made) -> None:
    writer = RunWriter(made.open(), "still", [made.identity.recipient], host="web")
    target = Target("volume", "v")
    put_content(made.repository, writer, target, made.contents["old"])
    writer.flush()
    done = prune_now(made.open(), "p", "old")
    assert done.fenced == ["still"]
    assert is_tombstone(made.open(), "snapshots/still")
    with pytest.raises(RepositoryLocked, match="fenced by a prune"):
        writer.commit(Snapshot("still", format_time(NOW), "web", "policy", "ok", [target]))
    writer.__exit__(None, None, None)
    assert made.right("kept", "new")
    prune_now(made.open(), "q")
    assert debris(made.open()) == []
    assert is_tombstone(made.open(), "snapshots/still"), "a tombstone stays"


def test_a_run_that_gives_signs_of_life_is_never_fenced(made: Made) -> None:
    made.storage.put("sessions/alive/0", made.repository.objects.seal("session", b"alive", b"{}"))

    class Clock(FastClock):
        def sleep(self, seconds: float) -> None:
            self.time += 100  # less than two intervals, again and again
            number = max(list_sessions(made.storage)["alive"])
            if number < 20:
                made.storage.put(f"sessions/alive/{number + 1}", made.storage.objects["sessions/alive/0"])
            else:
                for key in made.keys("sessions/alive/"):
                    made.storage.delete(key)

    done = Prune(made.open(), "p", lambda snapshots: {"old"}, ALL, host="h", clock=Clock()).run()
    assert done.fenced == []
    assert made.keys("sessions/") == []


@pytest.mark.parametrize("prune", [False, True])
def test_a_planted_heartbeat_does_not_make_a_living_run_look_dead(made: Made, prune: bool) -> None:
    """One with a number that no heartbeat reaches, nor does it hide whose session it is."""
    body = made.repository.objects.seal("session", b"a-run", b'{"host": "web", "prune": true}' if prune else b"{}")
    made.storage.put("sessions/a-run/0", body)
    made.storage.put(f"sessions/a-run/{10**200}", b"garbage")

    class Clock(FastClock):
        beats = 0

        def sleep(self, seconds: float) -> None:
            self.time += 100
            made.storage.delete(f"sessions/a-run/{self.beats}")
            self.beats += 1
            if self.beats < 20:
                made.storage.put(f"sessions/a-run/{self.beats}", body)
            else:
                made.storage.delete(f"sessions/a-run/{10**200}")

    made_prune = Prune(made.open(), "p", lambda snapshots: {"old"}, ALL, host="h", clock=Clock())
    if prune:
        with pytest.raises(RepositoryLocked, match="prune a-run of host web is at work"):
            made_prune.run()
    else:
        assert made_prune.run().fenced == []


def test_what_does_not_fit_in_one_mark_is_left_to_the_next_prune(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):  # debris that somebody planted, or runs left behind
        builder = PackBuilder(DATA_MAGIC, pack_buffer())
        key = pack_key(builder.finish(made.repository.objects))
        made.storage.put(key, builder.body)
    whole = plan_prune(made.open(), lambda snapshots: {"old"}, ALL.max_repack)
    assert len(whole.ids) > 5
    monkeypatch.setattr(plan_module, "MAX_IDS", 3)
    plan = plan_prune(made.open(), lambda snapshots: {"old"}, ALL.max_repack)
    assert len(plan.ids) == 3
    assert plan.ids < whole.ids
    for number in range(20):
        prune_now(made.open(), f"p{number:02}", "old")
        assert made.right("kept", "new")
        if not debris(made.open()):
            break
    assert number >= 1
    assert debris(made.open()) == []
    assert check_repository(made.open()).ok


def test_a_session_gives_signs_of_life_until_it_is_closed(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drkit.repository.commit.session.HEARTBEAT_SECONDS", 0.01)
    threads = threading.active_count()
    storage = FaultyStorage(made.storage)
    session = Session(storage, made.repository.objects, "run", host="web")
    session.open()
    while max(list_sessions(made.storage)["run"]) < 3:
        pass
    storage.fail(StorageUnavailable("gone"), kind="put", prefix="sessions/", times=2)
    reached = max(list_sessions(made.storage)["run"])
    while max(list_sessions(made.storage)["run"]) < reached + 4:
        pass
    session.close()
    assert made.keys("sessions/") == []
    assert threading.active_count() == threads


def test_the_later_of_two_prunes_gives_way(made: Made) -> None:
    other = Session(made.storage, made.repository.objects, "a-prune", host="web", prune=True)
    other.open()

    class Clock(FastClock):
        def sleep(self, seconds: float) -> None:
            number = max(list_sessions(made.storage)["a-prune"]) + 1
            body = made.repository.objects.seal("session", b"a-prune", b'{"host": "web", "prune": true}')
            made.storage.put(f"sessions/a-prune/{number}", body)

    with pytest.raises(RepositoryLocked, match="prune a-prune of host web is at work"):
        Prune(made.open(), "b-prune", lambda snapshots: {"old"}, ALL, host="h", clock=Clock()).run()
    assert made.keys("marks/") == []
    assert {key.split("/")[1] for key in made.keys("sessions/")} == {"a-prune"}
    assert made.right("kept", "new", "old")


def test_a_prune_that_was_fenced_deletes_nothing(made: Made) -> None:
    storage = FaultyStorage(made.storage)
    repository = made.open(storage)
    body = made.repository.objects.seal("snapshot", b"p", tombstone("p", by="q"))
    storage.on_call = At("put", "marks/", lambda: made.storage.put("snapshots/p", body))
    packs = set(made.keys("packs/"))
    with pytest.raises(RepositoryLocked, match="was fenced"):
        prune_now(repository, "p", "old")
    assert packs <= set(made.keys("packs/"))


def test_a_delete_that_is_denied_is_for_later(made: Made) -> None:
    storage = FaultyStorage(made.storage)
    repository = made.open(storage)
    storage.fail(AccessDenied("retention lock"), kind="delete", prefix="packs/", times=2)
    done = prune_now(repository, "p", "old")
    assert len(done.denied) == 2
    assert made.keys("marks/") == ["marks/p"]
    assert made.right("kept", "new")
    prune_now(made.open(), "q")
    assert debris(made.open()) == []


def test_a_record_that_cannot_be_deleted_keeps_its_chunks(made: Made) -> None:
    storage = FaultyStorage(made.storage)
    repository = made.open(storage)
    storage.fail(AccessDenied("retention lock"), kind="delete", prefix="snapshots/old")
    done = prune_now(repository, "p", "old")
    assert (done.forgotten, done.denied) == ([], ["snapshots/old"])
    assert made.right("kept", "new", "old")


def test_a_rotten_pack_is_not_moved_and_named(made: Made) -> None:
    """Moved it would get a new name, which hides the damage."""
    plan = plan_prune(made.open(), lambda snapshots: {"old"}, ALL.max_repack)
    key = packs_module.pack_key(next(iter(plan.moving)))
    body = made.storage.objects[key]
    made.storage.objects[key] = body[:30] + bytes([body[30] ^ 1]) + body[31:]
    done = prune_now(made.open(), "p", "old")
    assert [error.object_name for error in done.damaged] == [key]
    assert key in made.storage.objects


def test_many_small_index_objects_become_one(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindex, "MANY_SMALL", 3)
    assert len(index_keys(made.storage)) == 3
    prune_now(made.open())
    assert len(index_keys(made.storage)) == 1
    assert made.right("kept", "new", "old")


def test_shared_trees_are_read_once(made: Made) -> None:
    for number in range(30):
        made.contents[f"x{number:02d}"] = made.contents["new"]
        made.write(f"x{number:02d}")
    storage = FaultyStorage(made.storage)
    repository = made.open(storage)
    plan_prune(repository, lambda snapshots: set(), 0)
    ranges = [call for call in storage.calls if call.kind == "get" and call.key.startswith("packs/")]
    assert len(ranges) <= 6


# --- forget and readers -----------------------------------------------------------------------------------------------


def test_forget_refuses_the_newest_and_all_or_nothing(made: Made) -> None:
    newest = made.open()
    refused(made, RetentionRefused, "newest that holds volume v", lambda: forget_snapshots(newest, ["kept", "old"]))
    assert forget_snapshots(made.open(), ["kept"]).snapshots == ["kept"]
    assert forget_snapshots(made.open(), ["old"], yes_really=True).left == 1


def test_a_damaged_record_is_forgotten_by_its_whole_name_when_asked_twice(made: Made) -> None:
    made.storage.objects["snapshots/kept"] = b"damage"
    refused(made, RetentionRefused, "is damaged", lambda: forget_snapshots(made.open(), ["kept"]))
    forget_snapshots(made.open(), ["kept"], yes_really=True)
    prune_now(made.open())
    assert made.right("new", "old")


def test_a_snapshot_that_is_forgotten_while_they_are_listed_is_passed_over(made: Made) -> None:
    storage = FaultyStorage(made.storage)
    repository = made.open(storage)
    storage.on_call = At("get", "snapshots/kept", lambda: made.storage.delete("snapshots/old"))
    assert [snapshot.id for snapshot in repository.snapshots() if isinstance(snapshot, Snapshot)] == ["kept", "new"]


def test_an_index_that_is_replaced_while_it_is_read_is_read_anew(made: Made) -> None:
    storage = FaultyStorage(made.storage)
    repository = made.open(storage)
    storage.on_call = At("get", "index/", lambda: prune_now(made.open(), "p", "old"), times=2)
    assert read_everything(repository).keys() == {"kept", "new"}


def test_a_long_reading_survives_several_prunes(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = made.open()
    assert len(reading.index) > 0
    prune_now(made.open(), "p", "old")
    assert read_everything(reading).keys() == {"kept", "new"}


def test_unfinished_work_is_noted(made: Made) -> None:
    made.storage.put("sessions/run/3", made.repository.objects.seal("session", b"run", b'{"host": "web"}'))
    made.storage.put("marks/p", made.repository.objects.seal("mark", b"p", bytes(64)))
    made.storage.put("stranger", b"")
    made.storage.put("packs/readme", b"")
    report = check_repository(made.open())
    assert report.ok
    assert set(report.notes) == {"sessions/run/3", "marks/p", "stranger", "packs/readme"}
    assert "host web" in report.notes["sessions/run/3"]
    for key in ("sessions/run/3", "marks/p"):
        made.storage.objects[key] = b"x" + made.storage.objects[key][1:]
    assert set(check_repository(made.open()).findings) == {"sessions/run/3", "marks/p"}
