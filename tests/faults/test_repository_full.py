"""A repository on a file system without space or inodes: a clear error, and what was there stays whole and usable."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.lab import Lab, Volume
from tests.support.treecompare import compare_trees, describe

MIB = 1 << 20


@contextmanager
def small_file_system(place: Path, mib: int, *, inodes: int | None = None) -> Iterator[Callable[[int], None]]:
    """An ext4 of this size at `place`, with so many free inodes; yields what makes it larger."""
    image = place.with_name("small.img")
    image.touch()
    os.truncate(image, mib * MIB)
    run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", *(["-N", str(inodes)] if inodes else []), image)
    device = run("losetup", "--find", "--show", image)
    place.mkdir()

    def grow(mib: int) -> None:
        unmount(place)
        os.truncate(image, mib * MIB)
        run("losetup", "--set-capacity", device)
        run("e2fsck", "-f", "-p", device)
        run("resize2fs", device)
        run("mount", device, place)

    try:
        run("mount", device, place)
        try:
            place.chmod(0o700)
            for number in range(os.statvfs(place).f_ffree - inodes if inodes else 0):
                (place / "lost+found" / f"taken-{number}").touch()
            yield grow
        finally:
            unmount(place)
    finally:
        run("losetup", "--detach", device)


def unmount(place: Path) -> None:
    """Wait for the kernel to let go of what an ended process had open there."""
    for _ in range(50):
        if subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.2)
    run("umount", place)


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


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
    with small_file_system(lab.repository, 64) as grow:
        volume = back_up_something(lab)
        large = lab.volume("large", {f"file-{number}": rng.randbytes(16 * MIB) for number in range(8)})
        lab.write_policy(large)

        said = lab.fails(13, "backup")

        assert "no space left on device" in said
        assert "hint: Free space" in said
        assert lab.helpers() == []
        lab.write_policy(volume)
        assert_still_good(lab, volume)
        grow(512)
        lab.write_policy(large)
        lab.backup()
        assert (lab.restore(large).files / "file-7").read_bytes() == (large.files / "file-7").read_bytes()


def test_not_even_space_for_the_first_object(lab: Lab) -> None:
    with small_file_system(lab.repository, 16):
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
    with small_file_system(lab.repository, 64, inodes=80):
        volume = back_up_something(lab)
        filler = lab.repository / "lost+found"
        filler.mkdir(exist_ok=True)
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
    with small_file_system(lab.repository, 64, inodes=3):
        lab.write_policy("data")
        assert "no space left on device" in lab.fails(13, "init")
        assert not (lab.repository / "config").exists()
        assert not lab.identity.exists()


def test_init_without_space_for_the_program_makes_the_repository_and_its_kit(lab: Lab) -> None:
    with small_file_system(lab.repository, 24) as grow:
        lab.write_policy("data")
        made = lab.drkit("init", "--with-program")
        assert made.code == 13, made
        assert "is made and whole, but the program is not stored: cannot store" in made.stderr
        assert "no space left on device" in made.stderr
        assert "Then run drkit key kit --with-program." in made.stderr
        assert "drkit recovery kit" in made.stdout
        assert lab.snapshots() == []
        assert lab.objects("program/") == []
        grow(512)
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
