"""What a host remembers of a repository."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drkit.errors import IntegrityError
from drkit.host.seen import SeenRepositories, state_directory
from drkit.repository.repository import Repository, read_config
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import create


@pytest.fixture
def repository() -> Repository:
    return create(MemoryStorage())[0]


@pytest.fixture
def other() -> Repository:
    """Another one at the same URL."""
    return create(MemoryStorage())[0]


@pytest.fixture
def seen(tmp_path: Path) -> SeenRepositories:
    return SeenRepositories(tmp_path / "state")


def test_the_directory() -> None:
    assert state_directory({}) == Path("/var/lib/drkit")
    assert state_directory({"STATE_DIRECTORY": "/s"}) == Path("/s")
    assert state_directory({"STATE_DIRECTORY": "/s", "DRKIT_STATE_DIR": "/d"}) == Path("/d")


def test_another_repository_in_its_place(seen: SeenRepositories, repository: Repository, other: Repository) -> None:
    seen.require_same(repository)
    seen.remember(repository, ["1", "2"])
    seen.require_same(repository)
    with pytest.raises(IntegrityError, match=f"holds the repository {other.id.hex()} and this host knows") as caught:
        seen.require_same(other)
    assert caught.value.hint is not None
    assert f"--accept-repository {other.id.hex()}" in caught.value.hint
    with pytest.raises(IntegrityError):
        seen.require_same(other, accepted=repository.id.hex())
    seen.require_same(other, accepted=other.id.hex())
    seen.remember(other, [])
    seen.require_same(other)
    with pytest.raises(IntegrityError):
        seen.require_same(repository)


def test_a_copied_id_deceives_nobody(
    seen: SeenRepositories, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the meta key can be copied."""
    monkeypatch.setattr("drkit.repository.repository.random_bytes", lambda count: repository.id)
    forged = create(MemoryStorage())[0]
    assert forged.id == repository.id
    seen.remember(repository, [])
    with pytest.raises(IntegrityError, match="with another meta key"):
        seen.require_same(forged)


def test_a_newest_snapshot_that_is_gone_is_told(
    seen: SeenRepositories, repository: Repository, other: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    seen.tell_if_set_back(repository, [])
    seen.remember(repository, ["20250101t000000z-1", "20250102t000000z-2"])
    seen.tell_if_set_back(repository, ["20250102t000000z-2", "20250103t000000z-3"])
    seen.tell_if_set_back(other, [])
    assert caplog.text == ""
    seen.tell_if_set_back(repository, ["20250101t000000z-1"])
    assert "snapshot 20250102t000000z-2, the newest" in caplog.text
    assert "then there were 2 snapshots, now 1" in caplog.text


def test_files_are_private_and_whole(seen: SeenRepositories, repository: Repository, tmp_path: Path) -> None:
    for snapshots in (["1"], ["1", "2"]):
        seen.remember(repository, snapshots)
    [file] = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert file == seen.path(repository.storage.url)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    found = seen.seen(repository.storage.url)
    assert found is not None
    assert (found.newest, found.snapshots) == ("2", 2)
    assert repository.meta.meta_key.hex() not in file.read_text()


def test_a_damaged_file_is_no_catastrophe(
    seen: SeenRepositories, repository: Repository, rng: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    seen.remember(repository, ["1"])
    path = seen.path(repository.storage.url)
    whole = path.read_bytes()
    for damage in (b"", b"{}", b"[]", b"\xff", whole[: rng.randrange(len(whole))], b"[" * 100_000, whole + b"x"):
        path.write_bytes(damage)
        caplog.clear()
        seen.require_same(repository)
        assert str(path) in caplog.text
        seen.remember(repository, ["1"])
        assert path.read_bytes() == whole
    path.unlink()
    path.mkdir()
    seen.require_same(repository)
    seen.remember(repository, ["1"])
    assert "will not notice" in caplog.text


def test_the_mac_is_that_of_the_config(repository: Repository) -> None:
    assert repository.config_mac == read_config(repository.storage).mac


def test_what_this_host_has_forgotten_is_not_missed(
    seen: SeenRepositories, repository: Repository, other: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    seen.note_removed(repository, ["20250309t010203z-00000001"])  # nothing is known yet: nothing is noted
    assert not seen.path(repository.storage.url).exists()
    seen.remember(repository, ["20250309t010203z-00000001", "20250310t010203z-00000002"])
    seen.note_removed(repository, ["20250309t010203z-00000001"])
    seen.note_removed(other, ["20250310t010203z-00000002"])
    seen.tell_if_set_back(repository, [])
    assert "20250310t010203z-00000002" in caplog.text
    caplog.clear()
    seen.note_removed(repository, ["20250310t010203z-00000002"])
    seen.tell_if_set_back(repository, [])
    assert not caplog.text
    seen.require_same(repository)
    with pytest.raises(IntegrityError):
        seen.require_same(other)
