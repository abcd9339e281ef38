"""What a probe finds out about stores that lie, and what follows for a repository in them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from drkit.errors import AccessDenied, ObjectExists, RepositoryLocked, StorageUnavailable
from drkit.operations.context import Context
from drkit.operations.init import init
from drkit.policy import parse_policy
from drkit.repository.commit import single_writer as sole
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.prune.prune import Prune
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.storage import ObjectInfo, open_storage
from drkit.storage.base import MAX_OBJECT, Data, StoreInfo
from drkit.storage.local.mounts import file_system_type
from drkit.storage.probe import Capabilities, probe_storage
from tests.support.memory_storage import MemoryStorage
from tests.support.pruning import ALL, FastClock
from tests.support.repositories import NOW, create, write_snapshot


class Overwriting(MemoryStorage):
    """Ignores that a key is taken, as radosgw does in a bucket with versioning; unless it looks first."""

    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        if not self.traits.create_only:
            super().put(key, data, locked=locked)
        else:
            self.objects[key] = bytes(data)


class Racing(MemoryStorage):
    """Looks, then writes: right as long as nobody else does the same."""

    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        if key in self.objects:
            raise ObjectExists(key)
        time.sleep(0.005)
        self.objects[key] = bytes(data)


class NoConditions(MemoryStorage):
    """Does not know conditional writes at all."""

    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        if self.traits.create_only:
            raise StorageUnavailable("cannot store: the server answers 501 NotImplemented", hint="Do without.")
        super().put(key, data, locked=locked)


class Forgetful(MemoryStorage):
    """A listing that lags behind."""

    def list(self, prefix: str):  # type: ignore[no-untyped-def]
        return iter([ObjectInfo(f"{prefix}older", 1)] if prefix.startswith("probe/") else [])


class AppendOnly(MemoryStorage):
    def delete(self, key: str) -> None:
        raise AccessDenied(f"cannot delete {key}")


class Ranges(MemoryStorage):
    """Answers a range with the whole object."""

    def get(self, key: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT) -> bytes:
        return super().get(key)


def test_a_good_store(tmp_path: Path) -> None:
    for storage in (MemoryStorage(), open_storage(str(tmp_path / "repository"), create=True)):
        found = probe_storage(storage)
        assert (found.create_only, found.atomic, found.listing, found.ranges, found.deletes) == (True,) * 5
        assert found.unsafe is None
        assert found.unusable is None
        assert storage.traits.create_only
        assert list(storage.list("")) == []


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        (Overwriting(), "a second write replaces the first"),
        (Racing(), "several of eight racing writers"),
        (NoConditions(), "a second write replaces the first"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, MemoryStorage) else "",
)
def test_a_store_for_a_single_writer(storage: MemoryStorage, reason: str) -> None:
    found = probe_storage(storage)
    assert found.unsafe is not None
    assert reason in found.unsafe
    assert found.unusable is None
    assert storage.objects == {}
    assert storage.traits.create_only, "the probe left the storage as it was"
    assert any("conditional writes" in note for note in found.notes) == isinstance(storage, NoConditions)


@pytest.mark.parametrize(("storage", "reason"), [(Forgetful(), "listing"), (Ranges(), "a part of an object")])
def test_a_store_for_no_repository(storage: MemoryStorage, reason: str, tmp_path: Path) -> None:
    found = probe_storage(storage)
    assert found.unusable is not None
    assert reason in found.unusable


def test_a_store_that_deletes_nothing() -> None:
    found = probe_storage(AppendOnly())
    assert not found.deletes
    assert "scratch objects" in found.notes[0]
    assert (found.unsafe, found.unusable) == (None, None)


@pytest.mark.parametrize(
    ("nature", "unsafe"),
    [
        (StoreInfo(file_system="ext4", locks=True), None),
        (StoreInfo(file_system="nfs4", shared=True, locks=True), "the file system (nfs4) is shared by hosts"),
        (StoreInfo(file_system="ext4", locks=False), "file locks do not keep a second process out"),
    ],
)
def test_what_behaviour_cannot_tell(nature: StoreInfo, unsafe: str | None) -> None:
    found = Capabilities(True, True, True, True, True, nature)
    assert (found.unsafe or "").startswith(unsafe or "")
    assert (found.unsafe is None) == (unsafe is None)


def test_the_file_system_of_a_path(tmp_path: Path) -> None:
    assert file_system_type(Path("/proc/self")) == "proc"
    assert file_system_type(Path("/dev/shm")) == "tmpfs"
    assert file_system_type(tmp_path) not in (None, "proc")


# --- a repository in such a store -------------------------------------------------------------------------------------


def single_writer_repository(storage: MemoryStorage) -> tuple[Repository, list[str]]:
    _, identity = create(MemoryStorage())
    recipients = [identity.recipient]
    return Repository.create(storage, identity, recipients, now=NOW, single_writer=True), recipients


def test_the_mode_is_in_the_config_and_authenticated() -> None:
    storage = Overwriting()
    repository, _ = single_writer_repository(storage)
    assert repository.single_writer
    assert not repository.storage.traits.create_only
    assert b'"writers": "single"' in storage.objects["config"]
    storage.objects["config"] = storage.objects["config"].replace(b'"single"', b'"many"')
    with pytest.raises(Exception, match="does not authenticate"):
        Repository.open(storage, repository.identities)


def test_a_repository_for_many_has_no_such_field() -> None:
    storage = MemoryStorage()
    repository, _ = create(storage)
    assert not repository.single_writer
    assert b"writers" not in storage.objects["config"]


def test_a_run_alone_commits() -> None:
    repository, recipients = single_writer_repository(Overwriting())
    write_snapshot(repository, recipients, "20250309t010203z-00000001", {"data": {b"a": b"x" * 600}})
    assert [info.key for info in repository.storage.list("snapshots/")] == ["snapshots/20250309t010203z-00000001"]
    assert list(repository.storage.list("sessions/")) == []


class Clock:
    """Time that passes by sleeping only; `events` happen at their second."""

    def __init__(self, **events: object) -> None:
        self.now = 0.0
        self.at: dict[float, object] = {}

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for moment in [moment for moment in self.at if moment <= self.now]:
            self.at.pop(moment)()  # type: ignore[operator]


def check_alone(repository: Repository, clock: Clock) -> None:
    repository.storage.put("sessions/me/0", b"x")
    sole.require_single_writer(
        repository.storage, "me", single_writer=repository.single_writer, clock=lambda: clock.now, sleep=clock.sleep
    )


def test_a_living_run_keeps_another_out() -> None:
    repository, _ = single_writer_repository(Overwriting())
    repository.storage.put("sessions/other/7", b"x")
    clock = Clock()
    clock.at[60] = lambda: repository.storage.put("sessions/other/8", b"x")
    with pytest.raises(RepositoryLocked, match="run other is at work") as caught:
        check_alone(repository, clock)
    assert caught.value.exit_code == 11
    assert caught.value.hint
    assert clock.now == 60


def test_a_run_that_begins_meanwhile_keeps_another_out() -> None:
    repository, _ = single_writer_repository(Overwriting())
    repository.storage.put("sessions/dead/0", b"x")
    clock = Clock()
    clock.at[100] = lambda: repository.storage.put("sessions/new/0", b"x")
    with pytest.raises(RepositoryLocked, match="run new is at work"):
        check_alone(repository, clock)


def test_a_run_that_ends_lets_another_in() -> None:
    repository, _ = single_writer_repository(Overwriting())
    repository.storage.put("sessions/other/7", b"x")
    clock = Clock()
    clock.at[30] = lambda: repository.storage.delete("sessions/other/7")
    check_alone(repository, clock)
    assert clock.now == 30


def test_a_dead_run_is_passed_over_after_two_intervals(caplog: pytest.LogCaptureFixture) -> None:
    repository, _ = single_writer_repository(Overwriting())
    repository.storage.put("sessions/dead/0", b"x")
    clock = Clock()
    check_alone(repository, clock)
    assert clock.now > 120
    assert "run dead left its session" in caplog.text


def test_a_repository_for_many_asks_nobody() -> None:
    repository, _ = create(MemoryStorage())
    repository.storage.put("sessions/other/7", b"x")
    clock = Clock()
    check_alone(repository, clock)
    assert clock.now == 0


def test_a_backup_gives_way_and_leaves_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    repository, recipients = single_writer_repository(Overwriting())
    repository.storage.put("sessions/other/0", b"x")
    monkeypatch.setattr(sole, "POLL_SECONDS", 0.05)
    beat = threading.Timer(0.2, lambda: repository.storage.put("sessions/other/1", b"x"))
    beat.start()
    with pytest.raises(RepositoryLocked):
        write_snapshot(repository, recipients, "20250309t010203z-00000001", {})
    beat.join()
    assert {info.key for info in repository.storage.list("sessions/")} == {"sessions/other/0", "sessions/other/1"}
    assert list(repository.storage.list("snapshots/")) == []


def test_init_tries_the_directory_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    policy = parse_policy(
        "{version: 1, name: p, repository: {url: r, recipients_file: recipients, identity_file: identity}, "
        "protect: {volumes: [{name: data}]}}",
        tmp_path / "policy.yaml",
    )
    with Context(now=NOW, policy=policy, environ={}) as context:
        made = init(context)
    assert made.capabilities.unsafe is None
    assert not (tmp_path / "r/probe").exists()
    before = (tmp_path / "r/config").read_bytes()
    with pytest.raises(ObjectExists):
        init(Context(now=NOW, policy=policy, environ={}))
    assert (tmp_path / "r/config").read_bytes() == before


def test_a_prune_waits_once_for_a_dead_run_which_may_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sole, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(sole, "POLL_SECONDS", 0.02)
    repository, recipients = single_writer_repository(Overwriting())
    write_snapshot(repository, recipients, "first", {"v": {b"a": b"content"}})
    clock = FastClock()
    with RunWriter(repository, "sleeper", recipients, host="host") as sleeper:
        done = Prune(repository, "prune", lambda snapshots: set(), ALL, host="host", clock=clock).run()
        assert done.fenced == ["sleeper"]
        assert clock.time == 0, "it was waited for before the mark"
        with pytest.raises(RepositoryLocked, match="was fenced by a prune"):
            sleeper.commit(Snapshot("sleeper", "2025-03-09T01:02:03.000000Z", "host", "policy", "ok", []))
    assert [each.id for each in repository.snapshots() if isinstance(each, Snapshot)] == ["first"]
