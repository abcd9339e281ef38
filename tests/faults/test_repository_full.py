"""A repository on a file system without space or inodes: a clear error, and what was there stays whole and usable."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.lab import Lab, Volume
from tests.support.treecompare import compare_trees, describe

MIB = 1 << 20


@contextmanager
def small_file_system(place: Path, options: str) -> Iterator[None]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def back_up_something(lab: Lab) -> Volume:
    volume = lab.volume("small", {"file": b"content" * 1000})
    lab.init(volume)
    lab.backup()
    return volume


def assert_still_good(lab: Lab, volume: Volume) -> None:
    assert len(lab.snapshots()) == 1
    assert lab.json("verify")["status"] == "ok"
    assert lab.objects("sessions/") == []
    found = compare_trees(volume.files, lab.restore(volume).files)
    assert not found, describe(found)


def test_no_space(lab: Lab, rng: random.Random) -> None:
    with small_file_system(lab.repository, "size=64M,mode=0700"):
        volume = back_up_something(lab)
        large = lab.volume("large", {f"file-{number}": rng.randbytes(16 * MIB) for number in range(8)})
        lab.write_policy(large)

        said = lab.fails(13, "backup")

        assert "no space left on device" in said
        assert "hint: Free space" in said
        assert lab.helpers() == []
        lab.write_policy(volume)
        assert_still_good(lab, volume)
        subprocess.run(["mount", "-o", "remount,size=512M", str(lab.repository)], check=True)
        lab.write_policy(large)
        lab.backup()
        assert (lab.restore(large).files / "file-7").read_bytes() == (large.files / "file-7").read_bytes()


def test_not_even_space_for_the_first_object(lab: Lab) -> None:
    with small_file_system(lab.repository, "size=16M,mode=0700"):
        volume = back_up_something(lab)
        fill = lab.repository / "fill"
        with suppress(OSError), fill.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        assert "no space left on device" in lab.fails(13, "backup")
        assert_still_good(lab, volume)
        fill.unlink()
        lab.backup()


def test_no_inodes(lab: Lab) -> None:
    with small_file_system(lab.repository, "size=64M,nr_inodes=80,mode=0700"):
        volume = back_up_something(lab)
        filler = lab.repository / "lost+found"
        filler.mkdir()
        with suppress(OSError):
            for number in range(100):
                (filler / str(number)).touch()
        said = lab.fails(13, "backup")
        assert "no space left on device" in said
        assert "df -i" in said
        assert_still_good(lab, volume)
        for path in filler.iterdir():
            path.unlink()
        lab.backup()


def test_init_without_space_makes_no_repository(lab: Lab) -> None:
    with small_file_system(lab.repository, "size=64M,nr_inodes=3,mode=0700"):
        lab.write_policy("data")
        assert "no space left on device" in lab.fails(13, "init")
        assert not (lab.repository / "config").exists()
        assert not lab.identity.exists()


def test_init_without_space_for_the_program_makes_the_repository_and_its_kit(lab: Lab) -> None:
    with small_file_system(lab.repository, "size=24M,mode=0700"):
        lab.write_policy("data")
        made = lab.drkit("init", "--with-program")
        assert made.code == 13, made
        assert "is made and whole, but the program is not stored: cannot store" in made.stderr
        assert "no space left on device" in made.stderr
        assert "Then run drkit key kit --with-program." in made.stderr
        assert "drkit recovery kit" in made.stdout
        assert lab.snapshots() == []
        assert lab.objects("program/") == []
        subprocess.run(["mount", "-o", "remount,size=512M", str(lab.repository)], check=True)
        program = lab.json("key", "kit", "--with-program")["program"]
        assert [lab.key(path) for path in lab.objects("program/")] == [program["key"]]


@pytest.mark.parametrize("limit", ["-f 8192", "-n 24"])
def test_limits_of_the_process_are_named(lab: Lab, rng: random.Random, limit: str) -> None:
    """Files of at most 8 MiB; 24 open files."""
    volume = lab.volume("large", {f"file-{number}": rng.randbytes(8 * MIB) for number in range(4)})
    lab.init(volume)
    command = f'ulimit {limit} && exec "$0" -m drkit backup --policy "$1"'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, str(lab.policy)],
        cwd=lab.directory,
        env=lab.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr, done.stderr
    if limit.startswith("-f"):
        assert (done.returncode, "file too large" in done.stderr) == (13, True), done
    assert (done.returncode == 0) == bool(lab.snapshots())
    assert lab.json("check")["status"] == "ok"
    assert lab.objects("sessions/") == []
