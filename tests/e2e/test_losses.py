"""Volumes that lose what they held, on a real engine: another disk, no disk, no memory, half a restore, a rename."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import Lab, Volume, fill, finish
from tests.support.treecompare import compare_trees, describe

MIB = 1 << 20


def target(document: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [each for each in document["targets"] if each["name"] == name]
    return dict(found)


@contextmanager
def disk(image: Path, at: Path) -> Iterator[None]:
    """A file with an ext4 file system, mounted."""
    if not image.exists():
        with image.open("wb") as file:
            file.truncate(16 * MIB)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)


def test_the_disk_behind_a_volume_is_not_mounted(lab: Lab, tmp_path: Path) -> None:
    media = tmp_path / "srv-media"
    media.mkdir()
    volume = lab.volume("media", driver_opts={"type": "none", "o": "bind", "device": str(media)})
    other = lab.volume("other", {"a": b"a"})
    lab.init(volume, other, retention={"keep_last": 1})
    with disk(tmp_path / "disk.img", media):
        fill(media, {f"{number:03}.jpg": b"%d" % number * 500 for number in range(300)})
        full = lab.backup()

    for _ in range(2):
        document = lab.json("backup", code=3)
        assert document["status"] == "partial"
        lost = target(document, volume.name)
        assert (lost["status"], lost["files"], lost["flags"]) == ("partial", 1, [])
        assert "301 files" in lost["error"] and f"drkit accept {volume.name}" in lost["error"]  # with lost+found
        assert target(document, other.name)["status"] == "ok"
    pruned = lab.json("prune", "--yes-really")
    assert full in {each["snapshot"] for each in pruned["keep"]}

    restored = lab.restore(volume, "--path", "*.jpg")
    assert len(list(restored.files.iterdir())) == 300
    shown = lab.drkit("restore", "latest", "--volume", volume.name, "--to-volume", "x-y", "--dry-run")
    assert f"is newer than {full}, but volume {volume.name} is partial there" in shown.stderr
    aside = tmp_path / "aside"
    aside.mkdir()
    with disk(tmp_path / "disk.img", aside):
        with disk(tmp_path / "disk.img", media):
            lab.backup()
        # An older copy in its place, which gets another device.
        with disk(tmp_path / "older.img", media):
            fill(media, {f"{number:03}.jpg": b"%d" % number * 500 for number in range(290)})
            assert target(lab.json("backup", code=3), volume.name)["status"] == "partial"
            accepted = lab.json("accept", volume.name)
            assert [each["name"] for each in accepted["targets"]] == [volume.name]
            lab.backup()


def test_a_volume_that_was_emptied(lab: Lab) -> None:
    volume = lab.volume("data", {f"{number:03}": b"x" * 100 for number in range(200)})
    lab.init(volume, retention={"keep_last": 1})
    full = lab.backup()
    for path in volume.files.iterdir():
        path.unlink()

    first = lab.drkit("backup")
    assert first.code == 3
    assert f"drkit: volume {volume.name} lost most of what it held: 200 files of 20000 bytes" in first.stderr
    assert f"hint: Snapshot {full} stays until you say that this is right: drkit accept {volume.name}." in first.stderr
    assert "ok, shrunk" in first.stdout
    second = lab.drkit("backup")
    assert second.code == 0
    assert f"warning: volume {volume.name} has not come back to what it held" in second.stderr
    listed = lab.drkit("snapshots")
    assert listed.code == 0
    assert f"volume {volume.name} (shrunk)" in listed.stdout
    assert f"has lost most of what it held in snapshot {full}" in listed.stderr
    pruned = lab.json("prune", "--yes-really")
    reasons = {each["snapshot"]: each["reasons"] for each in pruned["keep"]}
    assert reasons[full] == [f"pinned: the capture after it shrank (volume {volume.name})"]
    assert "is pinned" in lab.fails(23, "forget", full)
    assert f"What it held before is in snapshot {full}" in lab.drkit("export", "latest", "--volume", volume.name).stderr

    said = lab.drkit("accept", f"volume:{volume.name}")
    assert said.code == 0 and "the next backup tells the repository" in said.stdout
    lab.backup()
    assert "warning" not in lab.drkit("snapshots").stderr
    lab.json("prune", "--yes-really")
    assert full not in {each["id"] for each in lab.snapshots()}
    assert "there is nothing to accept" in lab.fails(2, "accept", volume.name)


def test_a_large_directory_is_renamed_while_it_is_read(lab: Lab) -> None:
    volume = lab.volume("data")
    for number in range(4):
        (volume.files / f"a-{number}").write_bytes(os.urandom(8 * MIB))
    fill(volume.files, {f"old/{number:04}": b"%d" % number * 100 for number in range(2000)})
    lab.init(volume)
    process = lab.start("backup", "--policy", lab.policy, "--json")
    lab.wait_for_tar(process)
    process.send_signal(signal.SIGSTOP)  # tar stands still behind a full pipe
    (volume.files / "old").rename(volume.files / "new")
    process.send_signal(signal.SIGCONT)
    result = finish(process)
    assert result.code == 0, result
    found = target(json.loads(result.stdout), volume.name)
    assert (found["status"], found["files"], found["vanished_count"]) == ("ok", 2006, 0)
    assert not (differences := compare_trees(volume.files, lab.restore(volume).files)), describe(differences)


@pytest.fixture
def in_memory(lab: Lab) -> Volume:
    return lab.volume("memory", driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=4m"})


def test_a_volume_in_memory_counts_while_a_container_uses_it(lab: Lab, in_memory: Volume, busybox_image: str) -> None:
    lab.init({"match": f"{lab.name}-*"})
    host = lab.api.create_host_config(binds=[f"{in_memory.name}:/data"])
    command = ["sh", "-c", "echo 1 >/data/file; trap exit TERM; while :; do sleep 0.1; done"]
    box = lab.api.create_container(busybox_image, command, host_config=host)["Id"]
    try:
        idle = target(lab.json("backup", code=3), in_memory.name)
        assert idle["status"] == "partial" and "no running container uses it" in idle["error"]
        lab.api.start(box)
        assert lab.api.exec_inspect(run_in(lab, box, "until [ -s /data/file ]; do sleep 0.1; done"))["ExitCode"] == 0
        used = target(lab.json("backup"), in_memory.name)
        assert (used["status"], used["files"]) == ("ok", 2)
        lab.api.pause(box)
        assert target(lab.json("backup"), in_memory.name)["files"] == 2
        lab.api.unpause(box)
        lab.api.stop(box, timeout=5)
        stopped = target(lab.json("backup", code=3), in_memory.name)
        assert (stopped["status"], stopped["files"]) == ("partial", 1)
    finally:
        lab.api.remove_container(box, force=True)


def run_in(lab: Lab, box: str, script: str) -> str:
    made = lab.api.exec_create(box, ["sh", "-c", script])
    lab.api.exec_start(made)
    return str(made["Id"])


def test_half_a_restore_is_never_latest(lab: Lab) -> None:
    volume = lab.volume("data")
    for number in range(4):
        (volume.files / f"{number}").write_bytes(os.urandom(16 * MIB))
    lab.init(volume)
    full = lab.backup()
    lab.remove(volume)
    arguments = ["restore", "latest", "--volume", volume.name, "--policy", lab.policy]
    process = lab.start(*arguments)
    lab.wait_for_tar(process)
    process.send_signal(signal.SIGSTOP)
    running = target(lab.json("backup", code=3), volume.name)
    assert running["status"] == "partial" and "a restore into it is running or was interrupted" in running["error"]
    process.kill()
    finish(process)
    lab.wait_for_no_helper()
    half = target(lab.json("backup", code=3), volume.name)
    assert (half["status"], half["flags"]) == ("partial", [])
    assert f"docker volume rm {volume.name}" in half["error"]
    assert lab.json("restore", "latest", "--volume", volume.name, "--dry-run")["snapshot"] == full
    assert lab.run(*arguments).code == 0
    lab.backup()
