"""A helper, an engine or drkit itself dies in the middle of a backup: no snapshot claims what it has not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest

from tests.support.lab import HELPER_LABEL, PROJECT, Lab, Volume, finish
from tests.support.treecompare import compare_trees, describe

MIB = 1 << 20


def fill_large(volume: Volume, rng: random.Random) -> None:
    """Content that takes drkit more than a second to read."""
    for number in range(16):
        (volume.files / f"file-{number:02d}").write_bytes(rng.randbytes(16 * MIB))


@pytest.fixture
def large(lab: Lab, rng: random.Random) -> Volume:
    volume = lab.volume("large")
    fill_large(volume, rng)
    return volume


def assert_usable(lab: Lab, volume: Volume, snapshots: int) -> None:
    """The repository is whole, and the next backup and a restore of it succeed."""
    assert lab.json("check")["status"] == "ok"
    assert len(lab.snapshots()) == snapshots
    lab.backup()
    assert lab.json("verify")["status"] == "ok"
    found = compare_trees(volume.files, lab.restore(volume).files)
    assert not found, describe(found)


# --- the helper -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.4])
def test_a_killed_helper_gives_no_snapshot(lab: Lab, large: Volume, delay: float) -> None:
    lab.init(large)
    process = lab.start("backup", "--policy", lab.policy, "--json")
    box = lab.wait_for_tar(process)
    time.sleep(delay)
    lab.api.kill(box)
    result = finish(process, 60)
    assert result.code == 15, result
    document = json.loads(result.stdout)
    assert (document["status"], document["snapshot"]) == ("failed", None)
    assert document["targets"][0]["error"]
    lab.wait_for_no_helper()
    assert lab.objects("sessions/") == []
    assert_usable(lab, large, snapshots=0)


def test_a_helper_killed_while_it_scans_gives_no_snapshot(lab: Lab) -> None:
    """While drkit stands still, the scan does too: it is more than a pipe holds."""
    volume = lab.volume("many")
    for number in range(20_000):
        (volume.files / f"{number:0100d}").touch()
    lab.init(volume)
    process = lab.start("backup", "--policy", lab.policy, "--json")
    while not (boxes := [box["Id"] for box in lab.api.containers(filters={"label": HELPER_LABEL})]):
        assert process.poll() is None
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    lab.api.kill(boxes[0])
    process.send_signal(signal.SIGCONT)
    result = finish(process, 60)
    assert result.code == 15, result
    lab.wait_for_no_helper()
    assert_usable(lab, volume, snapshots=0)


def test_a_killed_helper_leaves_the_other_targets_safe(lab: Lab, large: Volume) -> None:
    good = lab.volume("good", {"file": b"content"})
    lab.init(large, good)
    process = lab.start("backup", "--policy", lab.policy, "--json")
    lab.api.kill(lab.wait_for_tar(process))
    result = finish(process, 60)
    assert result.code == 3, result
    document = json.loads(result.stdout)
    assert [target["status"] for target in document["targets"]] == ["failed", "ok"]
    assert (lab.restore(good).files / "file").read_bytes() == b"content"
    lab.fails(1, "restore", document["snapshot"], "--volume", large.name)
    assert_usable(lab, large, snapshots=1)


# --- drkit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 0.2, 0.6])
def test_a_killed_drkit_leaves_a_clean_repository_and_no_helper(lab: Lab, large: Volume, delay: float) -> None:
    lab.init(large)
    process = lab.start("backup", "--policy", lab.policy)
    lab.wait_for_tar(process)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    finish(process)
    lab.wait_for_no_helper()
    assert_usable(lab, large, snapshots=len(lab.snapshots()))
    # The next run has removed what was half written.
    assert [path.name for path in lab.objects("tmp/") if not path.name.startswith("reserve-")] == []


# --- the engine -------------------------------------------------------------------------------------------------------


@pytest.fixture
def doomed(tmp_path: Path, unique_name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A laboratory on an engine of its own, which the test may kill."""
    root = tmp_path / "engine"
    script = str(PROJECT / "scripts" / "engine")
    subprocess.run([script, "start", "--root", str(root)], check=True, capture_output=True, timeout=120)
    try:
        told = subprocess.run([script, "env", "--root", str(root)], check=True, capture_output=True, text=True).stdout
        host = next(line.partition("DOCKER_HOST=")[2] for line in told.splitlines() if "DOCKER_HOST=" in line)
        monkeypatch.setenv("DOCKER_HOST", host)
        directory = tmp_path / "lab"
        directory.mkdir()
        with closing(docker.APIClient(base_url=host, timeout=60)) as api:
            yield Lab(api, directory, unique_name)
    finally:
        subprocess.run([script, "remove", "--root", str(root)], check=True, capture_output=True, timeout=120)


def daemon(root: Path) -> int:
    """The process id of the dockerd whose data lies in `root`."""
    for path in Path("/run/drkit-engine").glob("*/dockerd.pid"):
        if str(root) in (path.parent / "daemon.json").read_text():
            return int(path.read_text())
    raise AssertionError(f"no engine runs in {root}")


def test_a_killed_engine_ends_a_backup_at_once_and_what_was_safe_stays(doomed: Lab, rng: random.Random) -> None:
    root = Path(doomed.api.info()["DockerRootDir"]).parent
    volume = doomed.volume("large")
    fill_large(volume, rng)
    other = doomed.volume("other", {"file": b"content"})
    doomed.init(other, volume)
    assert doomed.run("helper", "build").code == 0
    process = doomed.start("backup", "--policy", doomed.policy, "--json")
    deadline = time.monotonic() + 30
    while not [box for box in doomed.helpers() if mounts(doomed, box) == {volume.name}]:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
    doomed.wait_for_tar(process)

    os.kill(daemon(root), signal.SIGKILL)
    started = time.monotonic()
    result = finish(process, 60)

    assert time.monotonic() - started < 30
    assert "Traceback" not in result.stderr
    # The first target was safe before: the run is partial, and says so.
    assert result.code == 3, result
    document = json.loads(result.stdout)
    assert [target["status"] for target in document["targets"]] == ["ok", "failed"]
    assert doomed.objects("sessions/") == []
    assert doomed.json("check")["status"] == "ok"
    [snapshot] = doomed.snapshots()
    assert snapshot["status"] == "partial"
    assert doomed.fails(14, "backup")


def mounts(lab: Lab, box: str) -> set[str]:
    try:
        return {it["Name"] for it in lab.api.inspect_container(box)["Mounts"] if it["Type"] == "volume"}
    except docker.errors.NotFound:
        return set()
