"""What a host remembers of a repository."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from drkit.errors import IntegrityError
from drkit.host.seen import Found, SeenRepositories
from drkit.host.state import state_directory
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


def found(repository: Repository) -> Found:
    return Found("memory", "memory:", repository.id.hex(), repository.config_mac.hex())


@pytest.fixture
def seen(tmp_path: Path) -> SeenRepositories:
    return SeenRepositories(tmp_path / "state")


def test_the_directory() -> None:
    assert state_directory({}) == Path("/var/lib/drkit")
    assert state_directory({"STATE_DIRECTORY": "/s"}) == Path("/s")
    assert state_directory({"STATE_DIRECTORY": "/s", "DRKIT_STATE_DIR": "/d"}) == Path("/d")


def test_another_repository_in_its_place(seen: SeenRepositories, repository: Repository, other: Repository) -> None:
    seen.require_same(found(repository))
    seen.remember(found(repository), ["1", "2"])
    seen.require_same(found(repository))
    with pytest.raises(IntegrityError, match=f"holds the repository {other.id.hex()} and this host knows") as caught:
        seen.require_same(found(other))
    assert caught.value.hint is not None
    assert f"--accept-repository {other.id.hex()}" in caught.value.hint
    with pytest.raises(IntegrityError):
        seen.require_same(found(other), accepted=repository.id.hex())
    seen.require_same(found(other), accepted=other.id.hex())
    seen.remember(found(other), [])
    seen.require_same(found(other))
    with pytest.raises(IntegrityError):
        seen.require_same(found(repository))


def test_a_copied_id_deceives_nobody(
    seen: SeenRepositories, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the meta key can be copied."""
    monkeypatch.setattr("drkit.repository.repository.random_bytes", lambda count: repository.id)
    forged = create(MemoryStorage())[0]
    assert forged.id == repository.id
    seen.remember(found(repository), [])
    with pytest.raises(IntegrityError, match="with another meta key"):
        seen.require_same(found(forged))


def test_a_newest_snapshot_that_is_gone_is_told(
    seen: SeenRepositories, repository: Repository, other: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    seen.warn_if_set_back(found(repository), [])
    seen.remember(found(repository), ["20250101t000000z-1", "20250102t000000z-2"])
    seen.warn_if_set_back(found(repository), ["20250102t000000z-2", "20250103t000000z-3"])
    seen.warn_if_set_back(found(other), [])
    assert caplog.text == ""
    seen.warn_if_set_back(found(repository), ["20250101t000000z-1"])
    assert "snapshot 20250102t000000z-2, the newest" in caplog.text
    assert "there were 2 snapshots then, there are 1 now" in caplog.text


def test_files_are_private_and_whole(seen: SeenRepositories, repository: Repository, tmp_path: Path) -> None:
    for snapshots in (["1"], ["1", "2"]):
        seen.remember(found(repository), snapshots)
    [file] = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert file == seen.path(found(repository).place)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    known = seen.seen(found(repository))
    assert known is not None
    assert (known.newest, known.snapshots) == ("2", 2)
    assert repository.meta.meta_key.hex() not in file.read_text()


def test_a_damaged_file_is_no_catastrophe(
    seen: SeenRepositories, repository: Repository, rng: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    seen.remember(found(repository), ["1"])
    path = seen.path(found(repository).place)
    whole = path.read_bytes()
    endless = json.dumps(json.loads(whole) | {"snapshots": float("inf")}).encode()
    for damage in (
        b"",
        b"{}",
        b"[]",
        b"\xff",
        whole[: rng.randrange(len(whole))],
        b"[" * 100_000,
        endless,
        whole + b"x",
    ):
        path.write_bytes(damage)
        caplog.clear()
        seen.require_same(found(repository))
        assert str(path) in caplog.text
        seen.remember(found(repository), ["1"])
        assert path.read_bytes() == whole
    path.unlink()
    path.mkdir()
    seen.require_same(found(repository))
    seen.remember(found(repository), ["1"])
    assert "will not notice" in caplog.text


def test_the_mac_is_that_of_the_config(repository: Repository) -> None:
    assert repository.config_mac == read_config(repository.storage).mac


def test_what_this_host_has_forgotten_is_not_missed(
    seen: SeenRepositories, repository: Repository, other: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    seen.note_removed(found(repository), ["20250309t010203z-00000001"])  # nothing is known yet: nothing is noted
    assert not seen.path(found(repository).place).exists()
    seen.remember(found(repository), ["20250309t010203z-00000001", "20250310t010203z-00000002"])
    seen.note_removed(found(repository), ["20250309t010203z-00000001"])
    seen.note_removed(found(other), ["20250310t010203z-00000002"])
    seen.warn_if_set_back(found(repository), [])
    assert "20250310t010203z-00000002" in caplog.text
    caplog.clear()
    seen.note_removed(found(repository), ["20250310t010203z-00000002"])
    seen.warn_if_set_back(found(repository), [])
    assert not caplog.text
    seen.require_same(found(repository))
    with pytest.raises(IntegrityError):
        seen.require_same(found(other))


def test_the_same_bucket_name_at_two_providers_is_two_places(seen: SeenRepositories) -> None:
    ours = Found("https://one.example.com backups/shop", "s3://backups/shop", "00" * 16, "aa")
    theirs = Found("https://two.example.com backups/shop", "s3://backups/shop", "11" * 16, "bb")
    seen.remember(ours, ["1"])
    seen.require_same(theirs)
    seen.remember(theirs, ["2"])
    seen.require_same(ours)
    known = seen.seen(ours)
    assert known is not None
    assert known.newest == "1"


@pytest.mark.parametrize("place", ["/var/backups/drkit", "https://s3.example.com:443/backups/shop"])
def test_what_an_earlier_version_noted_by_its_url_still_counts(seen: SeenRepositories, place: str) -> None:
    url = place if place.startswith("/") else "s3://backups/shop"
    there = Found(place, url, "00" * 16, "aa")
    fields = {"url": url, "repository": "11" * 16, "config_mac": "bb", "newest": "1", "snapshots": 1}
    path = seen.path(url)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(fields))
    with pytest.raises(IntegrityError, match="this host knows 1111"):
        seen.require_same(there)
    seen.remember(there, ["2"])
    seen.require_same(there)
