"""A full disk can be pruned: no space, or no inodes. In a directory on a small file system; needs root."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from drkit.errors import DrkitError, StorageFull
from drkit.operations.prune import prune_repository
from drkit.repository.check import check_repository
from drkit.repository.keys.identity import Identity
from drkit.repository.prune.prune import Options
from drkit.repository.repository import Repository
from drkit.storage import open_storage
from tests.support.pruning import FastClock, debris
from tests.support.repositories import NOW, create, read_everything, write_snapshot

MIB = 1 << 20


@contextmanager
def small_file_system(place: Path, options: str) -> Iterator[None]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{options},mode=0700", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill_space(place: Path) -> None:
    with suppress(OSError), (place / "lost+found").open("wb", buffering=0) as file:
        while file.write(bytes(MIB)):
            pass
    with suppress(OSError), (place / "lost+found").open("ab", buffering=0) as file:
        while file.write(bytes(1)):
            pass


def fill_inodes(place: Path) -> None:
    (place / "lost+found").mkdir()
    with suppress(OSError):
        for number in range(100_000):
            (place / "lost+found" / str(number)).touch()


@pytest.mark.parametrize(
    ("options", "fill"), [("size=160M", fill_space), ("size=160M,nr_inodes=200", fill_inodes)], ids=["space", "inodes"]
)
def test_a_full_disk_is_pruned(tmp_path: Path, options: str, fill: object, rng: random.Random) -> None:
    place = tmp_path / "repository"
    contents = {run: {b"file": rng.randbytes(8 * MIB)} for run in ("kept", "old")}

    def opened(identity: Identity) -> Repository:
        return Repository.open(open_storage(str(place)), [identity])

    with small_file_system(place, options):
        storage = open_storage(str(place), create=True)
        _, identity = create(storage)
        storage.keep_reserve()
        reserve = sorted(place.glob("tmp/reserve-*"))
        assert len(reserve) == 16
        for run in ("old", "kept"):
            write_snapshot(opened(identity), [identity.recipient], run, {"v": contents[run]})
        storage.delete("snapshots/old")
        fill(place)  # type: ignore[operator]
        with pytest.raises(StorageFull):
            write_snapshot(opened(identity), [identity.recipient], "more", {"v": contents["old"]})
        pruned = prune_repository(opened(identity), None, "host", Options(1 << 40, True), now=NOW, clock=FastClock())
        assert pruned.disk_full
        assert pruned.done is not None
        assert pruned.done.bytes_deleted > 8 * MIB
        assert read_everything(opened(identity)) == {"kept": {"v": contents["kept"]}}
        assert check_repository(opened(identity)).ok
        assert debris(opened(identity)) == []
        (place / "lost+found").unlink() if (place / "lost+found").is_file() else subprocess.run(
            ["rm", "-r", str(place / "lost+found")], check=True
        )
        write_snapshot(opened(identity), [identity.recipient], "more", {"v": contents["old"]})
        storage.keep_reserve()
        assert sorted(place.glob("tmp/reserve-*")) == reserve


def test_a_reserve_that_cannot_be_released_is_an_error_of_ours(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path), create=True)
    (tmp_path / "tmp/reserve-00").mkdir(parents=True)
    storage.keep_reserve()
    with pytest.raises(DrkitError, match="cannot release the reserve in"), storage.released_reserve():
        pass


def test_the_reserve_is_not_made_where_it_would_fill_the_disk(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "repository", "size=50M"):
        storage = open_storage(str(tmp_path / "repository"), create=True)
        storage.keep_reserve()
        assert list((tmp_path / "repository").glob("tmp/reserve-*")) == []
