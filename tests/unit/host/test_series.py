"""Series of installations: cloned, rebuilt, set back, contended for, forged; and what an operator says about them."""

from __future__ import annotations

import os
import random
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from drkit.catalog.find import Scope, find_snapshot, find_target
from drkit.errors import DrkitError, IntegrityError, RetentionRefused, StorageUnavailable, UsageError
from drkit.host import series as series_module
from drkit.host.installation import Installation
from drkit.host.throwaway import _is_on_root_or_in_memory
from drkit.operations import host as host_operations
from drkit.operations.prune import prune
from drkit.repository.commit.records import get_payload
from drkit.repository.format.fields import MAX_NUMBER
from drkit.repository.format.record import copied_payload, encode_snapshot
from drkit.repository.format.sealing import SigningKey
from drkit.repository.format.snapshot import Previous, Snapshot, Target, format_time
from drkit.repository.lines import forks, lines_of
from drkit.repository.prune.prune import Options
from drkit.storage import Storage
from drkit.storage.base import Data
from drkit.storage.forwarding import ForwardingStorage
from drkit.storage.local.mounts import parse_mounts
from tests.support.dropping_storage import Dropping
from tests.support.faulty_storage import FaultyStorage
from tests.support.machines import Machine, Site
from tests.support.repositories import NOW

OPTIONS = Options(1 << 30, yes_really=True)


@pytest.fixture
def site(tmp_path: Path, rng: random.Random) -> Site:
    return Site(tmp_path, rng)


@pytest.fixture
def web(site: Site) -> Machine:
    return site.machine("state-web")


def put_record(site: Site, record: Snapshot, key: SigningKey | None = None) -> None:
    """What whoever holds the meta key can do."""
    repository = site.open()
    payload = encode_snapshot(record, key, repository_id=repository.id)
    repository.storage.put(f"snapshots/{record.id}", repository.objects.seal("snapshot", record.id.encode(), payload))


def forged(number: int = 1, **more: object) -> Snapshot:
    when = NOW + timedelta(days=100)
    return Snapshot(
        f"20990101t000000z-{number:08x}", format_time(when), "web", "shop", "ok", [Target("volume", "data")], **more
    )


# --- one machine ------------------------------------------------------------------------------------------------------


def test_records_are_signed_and_numbered_and_name_the_one_before(site: Site, web: Machine) -> None:
    made = [web.backup() for _ in range(3)]
    read = site.snapshots()
    assert [each.sequence for each in read] == [1, 2, 3]
    assert {each.origin for each in read} == {web.origin}
    assert [each.previous for each in read] == [None, *(Previous(each.id, each.sequence) for each in made[:2])]
    assert not web.warnings
    [line] = lines_of(read)
    assert line.origins == (web.origin,)


def test_files_are_private(web: Machine) -> None:
    web.backup()
    files = [path for path in web.state.rglob("*") if path.is_file()]
    assert len(files) >= 2
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)


def test_two_policies_are_two_series_of_one_origin(site: Site, web: Machine) -> None:
    for policy in ("shop", "mail", "shop"):
        web.backup(policy)
    assert [(each.policy, each.sequence) for each in site.snapshots()] == [("shop", 1), ("mail", 1), ("shop", 2)]
    assert len({each.origin for each in site.snapshots()}) == 1
    assert [line.policy for line in lines_of(site.snapshots())] == ["mail", "shop"]


def test_a_state_directory_that_cannot_be_written_stops_before_anything_is_stored(site: Site, web: Machine) -> None:
    web.state.write_text("a file")
    before = [info.key for info in site.storage.list("")]
    with pytest.raises(DrkitError, match=str(web.state)) as caught:
        web.backup()
    assert "DRKIT_STATE_DIR" in str(caught.value.hint)
    assert [info.key for info in site.storage.list("")] == before


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"key": "00"}', b'{"newest": 1}'])
def test_a_damaged_file_is_named_and_moved_away_begins_a_series_that_adopt_joins(
    site: Site, web: Machine, damage: bytes
) -> None:
    web.backup()
    for path in list(web.state.rglob("*.json")):
        whole = path.read_bytes()
        path.write_bytes(damage)
        with pytest.raises(DrkitError, match=str(path)) as caught:
            web.backup()
        assert "drkit host adopt" in str(caught.value.hint)
        path.write_bytes(whole)
    [path] = web.state.rglob("????????????????????????????????.json")
    path.unlink()
    web.backup()
    assert "copied, or set back" in web.warnings
    web.adopt()
    assert web.backup().sequence == 2
    assert forks(site.snapshots()) == []
    [line] = lines_of(site.snapshots())
    assert len(line.snapshots) == 3


def test_a_crash_between_commit_and_state_is_not_a_fork(
    site: Site, web: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.backup()
    save = Installation.save
    calls = []

    def crash_after_the_commit(self: Installation, repository: object, state: object) -> None:
        calls.append(state)
        if len(calls) == 4:  # prepare, commit's settling, pending, newest
            raise KeyboardInterrupt
        save(self, repository, state)  # type: ignore[arg-type]

    monkeypatch.setattr(Installation, "save", crash_after_the_commit)
    with pytest.raises(KeyboardInterrupt):
        web.backup()
    monkeypatch.undo()
    assert len(site.snapshots()) == 2
    after = web.backup()
    assert (after.sequence, after.previous) == (3, Previous(site.snapshots()[1].id, 2))
    assert not web.warnings


def test_a_commit_that_never_came_leaves_a_gap(site: Site, web: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    first = web.backup()

    def lost(self: object, record: object, payload: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(series_module.RunWriter, "commit", lost)
    with pytest.raises(KeyboardInterrupt):
        web.backup()
    monkeypatch.undo()
    after = web.backup()
    assert (after.sequence, after.previous) == (3, Previous(first.id, 1))
    assert not web.warnings


def test_a_record_that_the_store_dropped_is_noticed_and_leaves_a_gap(site: Site, web: Machine) -> None:
    first = web.backup()
    with pytest.raises(IntegrityError, match="acknowledged snapshots/"):
        web.backup(through=lambda storage: Dropping(storage, "snapshots/"))
    assert web.installation.series(site.open(), "web", "shop").pending
    after = web.backup()
    assert (after.sequence, after.previous) == (3, Previous(first.id, 1))
    assert not web.warnings


class Late(ForwardingStorage):
    """Gives no answer to the put of a record, and may still come to carry it out."""

    def __init__(self, inner: Storage, held: list[tuple[str, bytes]]) -> None:
        super().__init__(inner)
        self.held = held

    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        if key.startswith("snapshots/"):
            self.held.append((key, bytes(data)))
            raise StorageUnavailable("no answer")
        super().put(key, data, locked=locked)


@pytest.mark.parametrize("arriving", [[0], [1], [0, 1], [1, 0], [0, 1, 2], [2, 0]])
def test_records_that_come_late_are_no_fork(site: Site, web: Machine, arriving: list[int]) -> None:
    web.backup()
    held: list[tuple[str, bytes]] = []
    for _ in range(3):
        with pytest.raises(StorageUnavailable):
            web.backup(through=lambda storage: Late(storage, held))
    for number in arriving:
        site.storage.put(*held[number])
    after = web.backup()
    assert after.sequence == 5
    assert after.previous is not None
    assert after.previous.sequence == 2 + max(arriving)
    for number in {0, 1, 2} - set(arriving):  # even after the next one
        site.storage.put(*held[number])
    assert web.backup().origin == after.origin == web.origin
    assert not web.warnings


def test_a_run_reads_no_record_twice(site: Site, web: Machine) -> None:
    """Those that were listed at its start are known at its end, whosever they are."""
    for _ in range(3):
        site.machine("state-mail", host="mail").backup()
    faulty: list[FaultyStorage] = []

    def watched(storage: Storage) -> Storage:
        faulty.append(FaultyStorage(storage))
        return faulty[0]

    made = web.backup(through=watched)
    read = [call.key for call in faulty[0].calls if call.kind == "get" and call.key.startswith("snapshots/")]
    assert read == [f"snapshots/{made.id}"]


def test_runs_of_one_policy_at_once_are_no_fork(site: Site, web: Machine) -> None:
    """Another one commits while this one captures."""
    web.backup()
    web.backup(before_commit=lambda: web.backup())
    assert sorted(each.sequence for each in site.snapshots()) == [1, 2, 3]
    assert len({each.origin for each in site.snapshots()}) == 1
    web.backup()
    assert not web.warnings


def test_processes_at_once_are_no_fork(site: Site, web: Machine) -> None:
    children = []
    for _ in range(4):
        pid = os.fork()
        if not pid:
            try:
                for _ in range(3):
                    web.backup()
            except BaseException:  # noqa: BLE001  a child of a test must not go on as pytest
                os._exit(1)
            os._exit(0)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    made = site.snapshots()
    assert sorted(each.sequence for each in made) == list(range(1, 13))
    assert len({each.origin for each in made}) == 1
    by_number = {each.sequence: each.id for each in made}
    assert all(each.previous is None or by_number[each.previous.sequence] == each.previous.id for each in made)


def test_an_unsigned_repository_goes_on(site: Site, web: Machine) -> None:
    old = forged(1)
    old.time = format_time(NOW)
    put_record(site, old)
    assert [each.id for each in web.series(site.open()).prepare(site.snapshots())] == [old.id]
    new = web.backup()
    assert (new.sequence, new.previous) == (1, None)
    assert find_snapshot(site.open(), "latest").id == new.id
    assert [each.id for each in web.series(site.open()).prepare(site.snapshots())] == [new.id]
    with pytest.raises(DrkitError, match="nobody signed it") as caught:
        find_snapshot(site.open(), "latest", Scope(at=NOW + timedelta(hours=1)))
    assert old.id in str(caught.value.hint)
    for _ in range(3):
        web.backup()
    pruned = prune(web.context(), OPTIONS)
    assert pruned.done is not None
    assert len(pruned.done.forgotten) == 2
    assert old.id in {each.id for each in site.snapshots()}


# --- clones -----------------------------------------------------------------------------------------------------------


def test_clones_from_before_the_first_run_are_two_origins(site: Site, web: Machine) -> None:
    other = site.machine("state-other")
    web.backup()
    other.backup()
    assert "drkit host adopt" in other.warnings
    for _ in range(4):
        web.backup()
        other.backup()
        assert not web.warnings + other.warnings
    assert forks(site.snapshots()) == []
    theirs = {each.id for each in site.snapshots() if each.origin == other.origin}
    pruned = prune(web.context(), OPTIONS)
    assert pruned.done is not None
    assert len(pruned.done.forgotten) == 3
    assert pruned.others == 5
    assert theirs <= {each.id for each in site.snapshots()}
    with pytest.raises(UsageError, match="ambiguous") as caught:
        find_snapshot(site.open(), "latest")
    assert web.origin[:8] in caught.value.message
    assert other.origin[:8] in caught.value.message
    assert "drkit host adopt" in str(caught.value.hint)
    with pytest.raises(UsageError):
        find_target(site.open(), "latest", "volume", "data", Scope("web", "shop"))
    # A central pruner applies the rules to each of them.
    central = site.machine("state-central")
    pruned = prune(central.context(), OPTIONS, host="web")
    assert pruned.done is not None
    assert len(pruned.done.forgotten) == 3
    assert len(site.snapshots()) == 4
    assert prune(central.context(), OPTIONS).others == 4


def test_a_clone_begins_a_new_series_and_stops_prune_until_it_is_settled(site: Site, web: Machine) -> None:
    web.backup()
    clone = web.clone("state-clone")
    web.backup()
    made = clone.backup()
    assert (made.sequence, made.previous, made.fork) == (1, None, web.origin)
    assert made.origin == clone.origin != web.origin
    assert "copied, or set back" in clone.warnings
    assert "drkit host adopt" in clone.warnings
    clone.backup()
    assert "copied, or set back" in clone.warnings, "told on every run"
    assert web.backup().origin == web.origin
    assert "began as a copy" in web.warnings
    before = {each.id for each in site.snapshots()}
    for machine, host in ((web, None), (clone, None), (site.machine("state-central"), "web")):
        with pytest.raises(RetentionRefused) as caught:
            prune(machine.context(), OPTIONS, host=host)
        assert web.origin[:8] in caught.value.message
        assert clone.origin[:8] in caught.value.message
        assert "drkit host adopt" in str(caught.value.hint)
    assert {each.id for each in site.snapshots()} == before
    # Another host is not concerned.
    mail = site.machine("state-mail", host="mail")
    for _ in range(4):
        mail.backup()
    assert prune(mail.context(), OPTIONS).done is not None


def test_fork_lets_both_go_on(site: Site, web: Machine) -> None:
    web.backup()
    clone = web.clone("state-clone")
    web.backup()
    clone.backup()
    with pytest.raises(DrkitError, match="began as a copy"):
        web.fork()
    clone.fork()
    with pytest.raises(RetentionRefused):
        prune(clone.context(), OPTIONS)  # the repository does not say so yet
    assert clone.backup().fork == ""
    assert not clone.warnings
    for machine in (web, clone):
        for _ in range(3):
            machine.backup()
            assert not machine.warnings
        pruned = prune(machine.context(), OPTIONS)
        assert pruned.done is not None
        assert pruned.done.forgotten
        assert {each.origin for each in site.snapshots()} == {web.origin, clone.origin}


def test_the_clone_goes_on_with_the_series(site: Site, web: Machine) -> None:
    web.backup()
    clone = web.clone("state-clone")
    last = web.backup()
    clone.backup()
    old = web.origin
    assert clone.adopt().adopted == [old]
    made = clone.backup()
    assert (made.sequence, made.previous, made.fork) == (3, Previous(last.id, 2), "")
    assert not clone.warnings
    [line] = lines_of(site.snapshots())
    assert line.origins == (clone.origin, old)
    assert find_snapshot(site.open(), "latest").id == made.id
    pruned = prune(clone.context(), OPTIONS)
    assert pruned.done is not None
    assert len(pruned.done.forgotten) == 2
    # The old machine wakes up: it is the fork now.
    woken = web.backup()
    assert woken.origin not in (old, clone.origin)
    assert (woken.fork, woken.sequence) == (old, 1)
    with pytest.raises(RetentionRefused):
        prune(clone.context(), OPTIONS)
    clone.adopt(woken.origin[:8])
    clone.backup()
    assert prune(clone.context(), OPTIONS).done is not None
    [line] = lines_of(site.snapshots())
    assert line.origins[0] == clone.origin
    assert set(line.newest.adopted) == {old, woken.origin}


def test_the_original_takes_the_clone_over(site: Site, web: Machine) -> None:
    web.backup()
    clone = web.clone("state-clone")
    web.backup()
    clone.backup()
    web.adopt()
    assert web.backup().adopted == [clone.origin]
    assert not web.warnings
    assert forks(site.snapshots()) == []
    [line] = lines_of(site.snapshots())
    assert line.origins == (web.origin, clone.origin)


def test_both_take_the_other_over(site: Site, web: Machine) -> None:
    """Two operators who do not talk: the later one is told, and one of them can still settle it."""
    web.backup()
    clone = web.clone("state-clone")
    web.backup()
    clone.backup()
    web.adopt()
    clone.adopt()
    web.backup()
    clone.backup()
    assert "copied, or set back" in clone.warnings
    with pytest.raises(RetentionRefused):
        prune(web.context(), OPTIONS)
    web.adopt()
    web.backup()
    assert forks(site.snapshots()) == []
    assert len(lines_of(site.snapshots())) == 1


def test_a_state_directory_that_was_set_back(site: Site, web: Machine) -> None:
    web.backup()
    earlier = web.clone("state-earlier")
    web.backup()
    old = web.origin
    web.set_back_to(earlier)
    web.backup()
    assert "copied, or set back" in web.warnings
    web.adopt()
    assert web.backup().sequence == 3
    assert [line.origins for line in lines_of(site.snapshots())] == [(web.origin, old)]


def test_clones_that_commit_the_same_number_at_once(site: Site, web: Machine) -> None:
    """Neither sees the other's record before its own is there."""
    web.backup()
    clone = web.clone("state-clone")
    repositories = [site.open(), site.open()]
    prepared = [machine.series(repository) for machine, repository in zip((web, clone), repositories, strict=True)]
    listed = site.snapshots()
    for each in prepared:
        each.prepare(listed)
        each._listed_since = list  # type: ignore[method-assign]  # the listing of a store that lags
    for number, (series, repository) in enumerate(zip(prepared, repositories, strict=True), 1):
        record = forged(number)
        with series_module.RunWriter(repository, record.id, [site.identity.recipient], host="web") as writer:
            series.commit(writer, record)
    assert [each.sequence for each in site.snapshots()] == [1, 2, 2]
    [fork] = forks(site.snapshots())
    assert "as number 2" in fork.why
    with pytest.raises(RetentionRefused):
        prune(web.context(), OPTIONS)
    old = web.origin
    for machine in (web, clone):
        assert machine.backup().fork == old
    assert len({web.origin, clone.origin, old}) == 3
    web.adopt(old)
    clone.fork()
    web.backup()
    clone.backup()
    assert forks(site.snapshots()) == []
    assert prune(web.context(), OPTIONS).done is not None


def test_a_fork_found_in_one_policy_is_told_in_the_others(site: Site, web: Machine) -> None:
    for policy in ("shop", "mail"):
        web.backup(policy)
    clone = web.clone("state-clone")
    web.backup("shop")
    assert clone.backup("shop").fork == web.origin
    made = clone.backup("mail")
    assert (made.fork, made.origin) == (web.origin, clone.origin)
    for policy in ("shop", "mail"):
        clone.fork(policy)
        clone.backup(policy)
    assert forks(site.snapshots()) == []


def test_fork_counts_before_a_policy_has_noticed(site: Site, web: Machine) -> None:
    for policy in ("shop", "mail"):
        web.backup(policy)
    clone = web.clone("state-clone")
    web.backup("shop")
    clone.backup("shop")
    for policy in ("shop", "mail"):
        clone.fork(policy)
    for policy in ("shop", "mail"):
        made = clone.backup(policy)
        assert (made.fork, made.origin, clone.warnings) == ("", clone.origin, "")
    assert forks(site.snapshots()) == []


# --- rebuilt, and thrown away -----------------------------------------------------------------------------------------


def test_a_rebuilt_host_takes_its_old_series_over(site: Site, web: Machine) -> None:
    for _ in range(3):
        last = web.backup()
    rebuilt = site.machine("state-rebuilt")
    rebuilt.night = 10
    assert rebuilt.adopt().adopted == [web.origin]
    made = rebuilt.backup()
    assert not rebuilt.warnings
    assert (made.sequence, made.previous) == (4, Previous(last.id, 3))
    [line] = lines_of(site.snapshots())
    assert len(line.snapshots) == 4
    assert find_snapshot(site.open(), "latest").id == made.id
    again = site.machine("state-rebuilt-again")
    again.adopt()
    assert set(again.backup().adopted) == {web.origin, rebuilt.origin}
    assert len(lines_of(site.snapshots())) == 1


def test_a_parent_is_taken_from_the_own_line_alone(site: Site, web: Machine) -> None:
    web.backup()
    other = site.machine("state-other")
    assert other.series(site.open()).prepare(site.snapshots()) == []
    assert [each.sequence for each in web.series(site.open()).prepare(site.snapshots())] == [1]
    other.adopt()
    assert [each.origin for each in other.series(site.open()).prepare(site.snapshots())] == [web.origin]


def test_a_state_directory_that_a_container_throws_away_is_refused(site: Site, web: Machine) -> None:
    web.backup(throwaway=True)  # the first run: nobody else is there
    for number in range(3):
        again = site.machine(f"state-{number}")
        for _ in range(2):  # not only the first time
            with pytest.raises(DrkitError, match="goes with it") as caught:
                again.backup(throwaway=True)
            assert "DRKIT_STATE_DIR" in str(caught.value.hint)
            assert "drkit host adopt" in str(caught.value.hint)
        assert again.origin == ""
    assert len(site.snapshots()) == 1
    again.adopt()
    again.backup(throwaway=True)
    another = site.machine("state-another")
    another.fork()
    another.backup(throwaway=True)
    assert len(lines_of(site.snapshots())) == 2


def test_where_a_directory_is() -> None:
    """Of the root file system, of one in memory, or of a volume."""
    assert _is_on_root_or_in_memory(Path("/not/there/yet"), list)
    memory = Path("/dev/shm/not/there")
    device = Path("/dev/shm").stat().st_dev
    assert device != Path("/").stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for kind, thrown_away in (("tmpfs", True), ("ext4", False)):
        text = f"1 0 0:1 / / rw - overlay overlay rw\n36 35 {number} / /dev/shm rw shared:1 - {kind} x rw\n"
        assert _is_on_root_or_in_memory(memory, partial(parse_mounts, text.encode())) is thrown_away


# --- whoever holds the meta key ---------------------------------------------------------------------------------------


def test_an_unsigned_record_is_not_latest_and_pushes_nothing_out(site: Site, web: Machine) -> None:
    made = [web.backup() for _ in range(3)]
    for number in range(5):
        put_record(site, forged(number))
    assert find_snapshot(site.open(), "latest").id == made[-1].id
    pruned = prune(web.context(), OPTIONS)
    assert pruned.done is not None
    assert {each.id for each in made[1:]} <= {each.id for each in site.snapshots()}
    assert [each.id for each in web.series(site.open()).prepare(site.snapshots())] == [each.id for each in made[1:]]
    web.backup()
    assert not web.warnings


def test_a_record_under_anothers_origin_is_damaged(site: Site, web: Machine) -> None:
    made = web.backup()
    repository = site.open()
    record = forged(origin=web.origin, sequence=9)
    stranger = SigningKey(b"s" * 32)
    line = encode_snapshot(forged(origin=stranger.public.hex(), sequence=9), stranger, repository_id=repository.id)
    payload = line.replace(stranger.public.hex().encode(), web.origin.encode())
    repository.storage.put(f"snapshots/{record.id}", repository.objects.seal("snapshot", record.id.encode(), payload))
    assert [each.id for each in site.snapshots()] == [made.id]
    assert find_snapshot(site.open(), "latest").id == made.id
    web.backup()
    assert not web.warnings


def test_a_replayed_record_stays_where_it_was(site: Site, web: Machine) -> None:
    made = [web.backup() for _ in range(3)]
    repository = site.open()
    for number in range(6):
        name = f"20990101t000000z-{number:08x}"
        payload = get_payload(repository.storage, repository.objects, f"snapshots/{made[number % 2].id}")
        body = repository.objects.seal("snapshot", name.encode(), copied_payload(payload, name, []))
        repository.storage.put(f"snapshots/{name}", body)
    assert find_snapshot(site.open(), "latest").id == made[-1].id
    assert forks(site.snapshots()) == []
    assert web.backup().sequence == 4
    assert not web.warnings
    pruned = prune(web.context(), OPTIONS)
    assert pruned.done is not None
    assert [each.sequence for each in site.snapshots()] == [3, 4]


def test_a_stranger_who_takes_a_series_over_is_told_and_can_be_forgotten(site: Site, web: Machine) -> None:
    for _ in range(3):
        web.backup()
    old = web.origin
    stranger = SigningKey(b"s" * 32)
    record = forged(origin=stranger.public.hex(), sequence=MAX_NUMBER, adopted=[old])
    put_record(site, record, stranger)
    made = web.backup()
    assert made.fork == old
    assert "copied, or set back" in web.warnings
    with pytest.raises(RetentionRefused):
        prune(web.context(), OPTIONS)
    with pytest.raises(UsageError, match="ambiguous"):
        find_snapshot(site.open(), "latest")
    web.adopt(stranger.public.hex()[:12])
    with pytest.raises(DrkitError, match="last number"):
        web.backup()
    site.storage.delete(f"snapshots/{record.id}")
    web.adopt(old)
    web.backup()
    assert forks(site.snapshots()) == []
    assert prune(web.context(), OPTIONS).done is not None


# --- what an operator types -------------------------------------------------------------------------------------------


def test_adopt_asks_which(site: Site, web: Machine) -> None:
    with pytest.raises(UsageError, match="no signed snapshot of another series"):
        web.adopt()
    others = [site.machine(f"state-{number}") for number in range(2)]
    for each in others:
        each.backup()
    with pytest.raises(UsageError, match="2 series to choose from") as caught:
        web.adopt()
    assert all(each.origin[:8] in caught.value.message for each in others)
    with pytest.raises(UsageError, match="an origin like zz"):
        web.adopt("zz")
    assert web.adopt(others[1].origin[:8].upper()).adopted == [others[1].origin]


def test_show(site: Site, web: Machine) -> None:
    shown = host_operations.show(web.context())
    assert (shown.origin, shown.lines, shown.forks) == ("", [], [])
    web.backup()
    clone = web.clone("state-clone")
    web.backup()
    clone.backup()
    shown = host_operations.show(clone.context())
    assert shown.origin == clone.origin
    assert [(line.origins[0], shown.is_ours(line)) for line in shown.lines] == sorted(
        [(web.origin, False), (clone.origin, True)]
    )
    assert len(shown.forks) == 1
