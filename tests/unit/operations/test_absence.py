"""A record that is gone: found by check, verify and doctor, told by a backup, and it stops a prune."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from drkit.errors import DrkitError, RetentionRefused, StorageUnavailable
from drkit.operations import doctor
from drkit.operations.check import check
from drkit.operations.copy import copy_into
from drkit.operations.forget import forget, forget_snapshots
from drkit.operations.prune import prune, prune_repository
from drkit.operations.remembered import remembered
from drkit.operations.verify import verify
from drkit.policy import load_policy
from drkit.repository.absence import missing_in
from drkit.repository.commit.records import get_payload
from drkit.repository.forgot import Owner, note_forgotten, read_forgotten
from drkit.repository.format.record import encode_snapshot
from drkit.repository.format.sealing import SigningKey
from drkit.repository.format.snapshot import Previous, Snapshot, Target, format_time
from drkit.repository.mirror.mirror import open_mirror
from drkit.repository.prune.prune import Options
from drkit.repository.repository import Repository
from drkit.storage import open_storage
from drkit.storage.base import ObjectInfo, Storage
from drkit.storage.forwarding import ForwardingStorage
from tests.support.faulty_storage import FaultyStorage
from tests.support.machines import Machine, Site
from tests.support.memory_storage import MemoryStorage
from tests.support.mirroring import make_mirror
from tests.support.repositories import NOW

OPTIONS = Options(1 << 30, yes_really=True)


@pytest.fixture
def site(tmp_path: Path, rng: random.Random) -> Site:
    return Site(tmp_path, rng)


@pytest.fixture
def web(site: Site) -> Machine:
    return site.machine("state-web")


def delete(site: Site, record: Snapshot) -> None:
    """What an attacker, or a store that loses things, does."""
    site.storage.delete(f"snapshots/{record.id}")


def told_by(machine: Machine) -> list[str]:
    """What is missing for check, verify and doctor, which agree."""
    found = [
        set(check(machine.context()).findings),
        set(check(machine.context(), packs=True).findings),
        set(verify(machine.context()).findings),
        set(verify(machine.context(), percent=50).findings),
    ]
    assert all(each == found[0] for each in found)
    for report in (check(machine.context()), verify(machine.context())):
        assert (report.error is None) == (not found[0])
        assert report.error is None or report.error.exit_code == 20
    failed = [each for each in doctor._repository(machine.context(), []) if each.status == "failed"]
    assert len(failed) == len(found[0])
    assert all(each.exit_code == 20 for each in failed)
    assert all(name in " ".join(each.detail for each in failed) for name in found[0])
    return sorted(found[0])


def refused(machine: Machine, record: Snapshot) -> None:
    """A prune stops before it changes anything."""
    before = [info.key for info in machine.site.storage.list("")]
    for dry_run in (True, False):
        with pytest.raises(RetentionRefused, match=record.id) as caught:
            prune(machine.context(), OPTIONS, dry_run=dry_run)
        assert caught.value.exit_code == 23
        assert "drkit forget" in caught.value.message
    assert [info.key for info in machine.site.storage.list("")] == before


@pytest.mark.parametrize("which", ["newest", "only", "middle", "oldest"])
def test_a_record_that_somebody_deleted(site: Site, web: Machine, which: str) -> None:
    made = [web.backup() for _ in range(1 if which == "only" else 4)]
    assert told_by(web) == []
    gone = made[{"newest": -1, "only": 0, "middle": 2, "oldest": 0}[which]]
    delete(site, gone)
    assert told_by(web) == [f"snapshots/{gone.id}"]
    if which != "only":
        refused(web, gone)
    known = remembered(web.context(), site.open())
    assert [each.record.id for each in missing_in(site.open(), site.snapshots(), known)] == [gone.id]
    # A host that remembers nothing sees it too where another record names it.
    stranger = site.machine("state-stranger")
    assert told_by(stranger) == ([] if which in ("newest", "only") else [f"snapshots/{gone.id}"])
    # Backups go on, and from then on everybody can see it.
    after = web.backup()
    if which in ("newest", "only"):
        assert after.previous is not None
        assert after.previous.id == gone.id
    assert told_by(stranger) == [f"snapshots/{gone.id}"]
    refused(stranger, gone)
    # The way out.
    with pytest.raises(RetentionRefused, match="gone, and no note says") as caught:
        forget(web.context(), [gone.id])
    assert "--yes-really" in str(caught.value.hint)
    done = forget(web.context(), [gone.id], yes_really=True)
    assert (done.snapshots, done.explained, done.left) == ([], [gone.id], len(site.snapshots()))
    assert told_by(web) == told_by(stranger) == []
    assert prune(web.context(), OPTIONS).done is not None
    with pytest.raises(DrkitError, match="was not found"):
        forget(web.context(), [gone.id], yes_really=True)


def test_the_newest_is_explained_before_the_next_backup_too(site: Site, web: Machine) -> None:
    made = [web.backup() for _ in range(3)]
    delete(site, made[-1])
    forget(web.context(), [made[-1].id], yes_really=True)
    assert told_by(web) == []
    assert web.backup().sequence == 4
    assert told_by(site.machine("state-stranger")) == []


def test_what_prune_and_forget_remove_is_explained(site: Site, web: Machine) -> None:
    other = site.machine("state-mail", host="mail")
    for _ in range(6):
        web.backup()
        other.backup()
    for _ in range(2):
        pruned = prune(web.context(), OPTIONS)
        assert pruned.done is not None
        assert pruned.done.forgotten
        assert told_by(web) == told_by(other) == []
        web.backup()
        web.backup()
    newest = [each for each in site.snapshots() if each.host == "web"][-1]
    forget(web.context(), [newest.id], yes_really=True)
    assert told_by(web) == []
    assert len(list(site.storage.list("forgot/"))) == 1
    web.backup()
    assert told_by(web) == []


def test_a_damaged_record_is_forgotten_with_its_number(site: Site, web: Machine) -> None:
    made = [web.backup() for _ in range(4)]
    for gone in (made[1], made[3]):
        key = f"snapshots/{gone.id}"
        delete(site, gone)
        site.storage.put(key, b"damaged")
        assert told_by_check(web) == [key]
        forget(web.context(), [gone.id], yes_really=True)
        assert told_by(web) == []


def told_by_check(machine: Machine) -> list[str]:
    return sorted(check(machine.context()).findings)


def test_a_crash_after_the_note_leaves_one_too_many(site: Site, web: Machine) -> None:
    made = [web.backup() for _ in range(3)]
    note_forgotten(site.open(), {Owner(web.origin, "web", "shop"): [each.sequence for each in made]})
    assert told_by(web) == []
    assert len(site.snapshots()) == 3


def test_a_repository_that_was_set_back(site: Site, web: Machine) -> None:
    for _ in range(2):
        web.backup()
    shutil.copytree(site.place, site.directory / "earlier")
    last = web.backup()
    shutil.rmtree(site.place)
    shutil.move(site.directory / "earlier", site.place)
    assert told_by(web) == [f"snapshots/{last.id}"]
    refused(web, last)
    assert web.backup().sequence == 4
    assert "copied, or set back" not in web.warnings


def test_a_repository_that_was_moved_is_the_same(site: Site, web: Machine) -> None:
    made = [web.backup() for _ in range(2)]
    moved = site.directory / "moved"
    shutil.move(site.place, moved)
    site.place = moved
    delete_key = moved / "snapshots" / made[-1].id
    delete_key.unlink()
    assert told_by_check(web) == [f"snapshots/{made[-1].id}"]


class Short(ForwardingStorage):
    """A listing that lacks a record, of a store that lags or lies."""

    def __init__(self, inner: Storage, lacking: str) -> None:
        super().__init__(inner)
        self.lacking = lacking

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (info for info in super().list(prefix) if info.key != self.lacking)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_short_listing_stops_a_prune(site: Site, web: Machine, number: int) -> None:
    made = [web.backup() for _ in range(3)]
    repository = Repository.open(Short(site.storage, f"snapshots/{made[number].id}"), [site.identity])
    policy = load_policy(site.policy("web", "shop"))
    before = [info.key for info in site.storage.list("")]
    with pytest.raises(RetentionRefused, match=made[number].id):
        prune_repository(
            repository,
            policy,
            "web",
            OPTIONS,
            origin=web.origin,
            known=remembered(web.context(), repository),
            now=NOW,
        )
    assert [info.key for info in site.storage.list("")] == before


def test_an_unsigned_record_of_the_same_name_is_not_it(site: Site, web: Machine) -> None:
    """Whoever holds the meta key cannot put another one in its place."""
    made = [web.backup() for _ in range(3)]
    gone = made[1]
    delete(site, gone)
    repository = site.open()
    forged = Snapshot(gone.id, gone.time, "web", "shop", "ok", [Target("volume", "data")])
    copy = Snapshot("20990101t000000z-00000001", format_time(NOW), "web", "shop", "ok", [], copy_of=gone.id)
    for record in (forged, copy):
        body = repository.objects.seal("snapshot", record.id.encode(), encode_snapshot(record))
        repository.storage.put(f"snapshots/{record.id}", body)
    assert told_by_check(web) == [f"snapshots/{gone.id}"]
    refused(web, gone)


def test_a_record_that_is_there_is_not_noted_for_what_a_stranger_names(site: Site, web: Machine) -> None:
    """A stranger's record names one of ours under a number that it never had: then that number is looked for."""
    made = [web.backup() for _ in range(3)]
    stranger = SigningKey(b"e" * 32)
    named = Snapshot("20990101t000000z-00000001", format_time(NOW), "web", "shop", "ok", [])
    named.origin, named.sequence, named.previous = stranger.public.hex(), 1, Previous(made[1].id, 77)
    repository = site.open()
    payload = encode_snapshot(named, stranger, repository_id=repository.id)
    repository.storage.put(f"snapshots/{named.id}", repository.objects.seal("snapshot", named.id.encode(), payload))
    problem = check(web.context()).findings[f"snapshots/{made[1].id}"].problem
    assert problem.startswith("there, but not as number 77")
    done = forget_snapshots(repository, [made[1].id], yes_really=True)
    assert (done.snapshots, done.explained) == ([], [made[1].id])
    assert told_by_check(web) == []
    assert made[1].id in {each.id for each in site.snapshots()}
    delete(site, made[1])
    assert told_by_check(web) == [f"snapshots/{made[1].id}"]


def test_a_state_file_that_cannot_be_read_is_told(site: Site, web: Machine) -> None:
    web.backup()
    [path] = web.state.rglob("????????????????????????????????.json")
    path.write_bytes(b"{}")
    report = check(web.context())
    assert report.ok
    assert any(str(path) in each.message for each in report.warnings)
    before = {info.key for info in site.storage.list("")}
    with pytest.raises(RetentionRefused, match="cannot be told, so nothing is removed"):
        prune(web.context(), OPTIONS)
    assert {info.key for info in site.storage.list("")} == before


# --- mirrors ----------------------------------------------------------------------------------------------------------


class Mirrored:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.storage = MemoryStorage()
        make_mirror(site.open(), self.storage)

    def open(self) -> Repository:
        return open_mirror(self.site.open(), self.storage)

    def copy(self, *references: str, storage: Storage | None = None) -> None:
        mirror = open_mirror(self.site.open(), storage or self.storage)
        copy_into(self.site.open(), mirror, references, host="web")

    def missing(self) -> list[str]:
        mirror = self.open()
        held = [each for each in mirror.snapshots() if isinstance(each, Snapshot)]
        return [each.record.id for each in missing_in(mirror, held)]

    def noted(self) -> list[tuple[int, int]]:
        return [each for ranges in read_forgotten(self.open()).ranges.values() for each in ranges]

    def sequences(self) -> list[int]:
        return sorted(each.sequence for each in self.open().snapshots() if isinstance(each, Snapshot))


@pytest.fixture
def mirror(site: Site) -> Mirrored:
    return Mirrored(site)


def test_copies_are_found_by_what_they_are_copies_of(site: Site, web: Machine, mirror: Mirrored) -> None:
    for _ in range(3):
        web.backup()
    mirror.copy()
    assert (mirror.sequences(), mirror.missing(), mirror.noted()) == ([1, 2, 3], [], [])


def test_what_the_source_has_forgotten_is_noted_in_the_mirror(site: Site, web: Machine, mirror: Mirrored) -> None:
    web.backup()
    mirror.copy()
    for _ in range(5):
        web.backup()
    prune(web.context(), OPTIONS)
    mirror.copy()
    assert (mirror.sequences(), mirror.missing(), mirror.noted()) == ([1, 5, 6], [], [(4, 4)])


def test_what_comes_later_takes_the_note_back(site: Site, web: Machine, mirror: Mirrored) -> None:
    made = [web.backup() for _ in range(4)]
    mirror.copy(made[3].id)
    assert (mirror.sequences(), mirror.missing(), mirror.noted()) == ([4], [], [(3, 3)])
    mirror.copy(made[1].id)
    assert (mirror.sequences(), mirror.missing(), mirror.noted()) == ([2, 4], [], [(1, 1), (3, 3)])
    mirror.copy()
    assert (mirror.sequences(), mirror.missing(), mirror.noted()) == ([1, 2, 3, 4], [], [])
    middle = next(each for each in mirror.open().snapshots() if isinstance(each, Snapshot) and each.sequence == 2)
    mirror.storage.delete(f"snapshots/{middle.id}")
    assert mirror.missing() == [made[1].id]
    mirror.copy()
    assert mirror.missing() == []


def test_a_copy_that_was_cut_short_leaves_no_note_of_what_is_there(site: Site, web: Machine, mirror: Mirrored) -> None:
    made = [web.backup() for _ in range(6)]
    failing = FaultyStorage(mirror.storage)
    failing.fail(StorageUnavailable("no answer"), call=4, kind="put", prefix="snapshots/")
    with pytest.raises(StorageUnavailable):
        mirror.copy(storage=failing)
    mirror.copy()
    assert (mirror.sequences(), mirror.missing(), mirror.noted()) == ([1, 2, 3, 4, 5, 6], [], [])
    gone = next(each for each in mirror.open().snapshots() if isinstance(each, Snapshot) and each.sequence == 5)
    mirror.storage.delete(f"snapshots/{gone.id}")
    assert mirror.missing() == [made[4].id]


def test_a_mirror_keeps_its_own_notes(site: Site, web: Machine, mirror: Mirrored) -> None:
    for _ in range(5):
        web.backup()
    mirror.copy()
    policy = load_policy(site.policy("web", "shop"))
    prune_repository(mirror.open(), policy, "web", OPTIONS, origin=web.origin, now=web.context().now)
    assert (mirror.sequences(), mirror.missing(), mirror.noted()) == ([4, 5], [], [(1, 3)])
    assert read_forgotten(site.open()).ranges == {}
    mirror.copy()
    assert (mirror.sequences(), mirror.noted()) == ([1, 2, 3, 4, 5], [])


def test_a_mirror_that_is_behind_is_not_set_back(site: Site, web: Machine, mirror: Mirrored) -> None:
    web.backup()
    mirror.copy()
    web.backup()
    assert remembered(web.context(), mirror.open()) == []
    assert len(remembered(web.context(), site.open())) == 1


def test_a_lost_repository_is_recreated_from_its_mirror(site: Site, web: Machine, mirror: Mirrored) -> None:
    made = [web.backup() for _ in range(3)]
    mirror.copy()
    lost = web.backup()
    source = mirror.open()
    shutil.rmtree(site.place)
    copy_into(source, make_mirror(source, open_storage(str(site.place), create=True)), host="web")
    assert told_by(web) == []
    after = web.backup()
    assert (after.sequence, after.origin) == (lost.sequence + 1, made[0].origin)
    assert after.previous is not None
    assert after.previous.id == made[2].id
    assert not web.warnings
    assert told_by(web) == []


def test_a_copy_keeps_record_and_signature(site: Site, web: Machine, mirror: Mirrored) -> None:
    made = web.backup()
    mirror.copy()
    repository, copied = site.open(), mirror.open()
    [held] = [each for each in copied.snapshots() if isinstance(each, Snapshot)]
    original = get_payload(repository.storage, repository.objects, f"snapshots/{made.id}").split(b"\n")[0]
    assert get_payload(copied.storage, copied.objects, f"snapshots/{held.id}").split(b"\n")[0] == original
    assert forget_snapshots(copied, [held.id], yes_really=True).left == 0
