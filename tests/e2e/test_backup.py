"""`drkit backup` through the command line: what it takes, what it says, and what it leaves alone."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.lab import Lab, Result, Volume, fill, finish
from tests.support.treecompare import compare_trees, describe

MIB = 1 << 20
SLOW_PIECES = 12
TARGET_KEYS = {
    "kind": str,
    "name": str,
    "status": str,
    "files": int,
    "bytes_read": int,
    "bytes_stored": int,
    "seconds": float,
    "downtime_seconds": float,
    "torn": list,
    "error": (str, type(None)),
}


def assert_same(original: Volume, restored: Volume) -> None:
    found = compare_trees(original.files, restored.files)
    assert not found, describe(found)


# --- targets ----------------------------------------------------------------------------------------------------------


def test_several_targets_make_one_snapshot(lab: Lab) -> None:
    one = lab.volume("one", {"a/file": b"one", "b": b"x" * 10_000})
    two = lab.volume("two", {"file": b"two"})
    image = lab.image("app", {"bin/app": b"program"})
    lab.init(one, two, images=[image])

    document = lab.json("backup")

    assert document["status"] == "ok"
    assert [(it["kind"], it["name"], it["status"]) for it in document["targets"]] == [
        ("volume", one.name, "ok"),
        ("volume", two.name, "ok"),
        ("image", image, "ok"),
    ]
    for target in document["targets"]:
        for key, kind in TARGET_KEYS.items():
            assert isinstance(target[key], kind), (key, target[key])
        assert target["error"] is None
        assert target["bytes_read"] > 0
    assert document["targets"][0]["files"] == 4  # its root, a, a/file, b
    [snapshot] = lab.snapshots()
    assert snapshot["id"] == document["snapshot"]
    assert (snapshot["host"], snapshot["policy"], snapshot["status"]) == ("lab-host", "lab", "ok")
    assert snapshot["time"].endswith("Z")
    assert [(it["kind"], it["name"], it["status"], it["bytes"]) for it in snapshot["targets"][:2]] == [
        ("volume", one.name, "ok", 10_003),
        ("volume", two.name, "ok", 3),
    ]
    assert lab.json("verify")["errors"] == []


def test_a_missing_volume_makes_the_snapshot_partial_and_is_not_created(lab: Lab) -> None:
    good = lab.volume("good", {"file": b"content"})
    missing = lab.forget_later(f"{lab.name}-missing")
    no_image = f"{lab.name}-no-image:1"
    lab.init(good, missing, images=[no_image])

    result = lab.drkit("backup", "--json")

    assert result.code == 3, result
    assert missing in result.stderr
    assert "hint: " in result.stderr
    document = json.loads(result.stdout)
    assert document["status"] == "partial"
    assert [(it["name"], it["status"]) for it in document["targets"]] == [
        (good.name, "ok"),
        (missing, "failed"),
        (no_image, "failed"),
    ]
    assert "no such volume" in document["targets"][1]["error"]
    assert "no such image" in document["targets"][2]["error"]
    assert not lab.exists(missing)
    [snapshot] = lab.snapshots()
    assert snapshot["status"] == "partial"
    assert_same(good, lab.restore(good))
    assert "failed in snapshot" in lab.fails(1, "restore", document["snapshot"], "--volume", missing)
    assert "was not found" in lab.fails(1, "restore", "latest", "--volume", missing)
    assert not lab.exists(missing)


def test_when_all_targets_fail_there_is_no_snapshot(lab: Lab) -> None:
    missing = lab.forget_later(f"{lab.name}-missing")
    lab.init(missing, {"match": f"{lab.name}-no-*"})
    before = lab.objects()

    result = lab.drkit("backup", "--json")

    assert result.code == 15, result
    document = json.loads(result.stdout)
    assert (document["status"], document["snapshot"]) == ("failed", None)
    assert [target["status"] for target in document["targets"]] == ["failed", "failed"]
    assert "no snapshot was made" in result.stderr
    assert lab.snapshots() == []
    assert lab.objects() == before
    assert not lab.exists(missing)


def test_an_error_of_the_engine_with_one_target_leaves_the_others_safe(lab: Lab) -> None:
    """The driver mounts the volume only when a container starts: then the engine refuses, with an error of its own."""
    good = lab.volume("good", {"file": b"content"})
    device = "/nonexistent/device"
    broken = f"{lab.name}-broken"
    lab.api.create_volume(lab.forget_later(broken), driver_opts={"type": "ext4", "device": device})
    lab.init(broken, good)

    result = lab.drkit("backup", "--json")

    assert result.code == 3, result
    document = json.loads(result.stdout)
    assert [(it["name"], it["status"]) for it in document["targets"]] == [(broken, "failed"), (good.name, "ok")]
    assert device in document["targets"][0]["error"]
    assert_same(good, lab.restore(good))


def test_a_pattern_matches_volumes_and_one_that_matches_none_fails(lab: Lab) -> None:
    names = [lab.volume(f"media-{number}", {"file": b"%d" % number}).name for number in range(2)]
    other = lab.volume("other", {"file": b"other"})
    nothing = f"{lab.name}-nothing-*"
    lab.init({"match": f"{lab.name}-media-*"}, {"match": nothing})

    document = lab.json("backup", code=3)

    assert [(it["name"], it["status"]) for it in document["targets"]] == [
        *((name, "ok") for name in names),
        (nothing, "failed"),
    ]
    assert other.name not in {target["name"] for target in document["targets"]}
    assert "no volume matches" in document["targets"][2]["error"]


def test_target_captures_only_what_it_names(lab: Lab) -> None:
    one, two = lab.volume("one", {"file": b"1"}), lab.volume("two", {"file": b"2"})
    lab.init(one, two)

    document = lab.json("backup", "--target", two.name)

    assert [target["name"] for target in document["targets"]] == [two.name]
    said = lab.fails(2, "backup", "--target", "nonsense")
    assert "nonsense" in said
    assert one.name in said
    assert len(lab.snapshots()) == 1


def test_dry_run_says_what_would_be_captured_and_changes_nothing(
    lab: Lab, remove_helper_images: Callable[[], None]
) -> None:
    good = lab.volume("good", {"file": b"content"})
    missing = lab.forget_later(f"{lab.name}-missing")
    no_image = f"{lab.name}-no-image:1"
    lab.init(good, missing, images=[no_image])
    remove_helper_images()
    before = [(path, path.stat()) for path in sorted(lab.directory.rglob("*"))]

    planned = lab.json("backup", "--dry-run")["targets"]
    shown = lab.drkit("backup", "--dry-run")

    assert [(it["kind"], it["name"], bool(it["problem"])) for it in planned] == [
        ("volume", good.name, False),
        ("volume", missing, True),
        ("image", no_image, True),
    ]
    assert shown.code == 0
    assert "would be captured" in shown.stdout
    assert "no such volume" in shown.stdout
    assert [(path, path.stat()) for path in sorted(lab.directory.rglob("*"))] == before
    assert lab.api.images(filters={"label": "drkit.helper.image"}) == []
    assert lab.helpers() == []
    assert not lab.exists(missing)


def test_excludes_follow_gitignore_syntax_from_the_root_of_the_volume(lab: Lab) -> None:
    files = ["keep", "a.tmp", "sub/b.tmp", "cache/x", "cache/deep/y", "sub/cache/z", "logs/old", "logs/new"]
    volume = lab.volume("files", {path: path.encode() for path in files})
    lab.init({"name": volume.name, "exclude": ["*.tmp", "/cache/**", "logs/*", "!logs/new"]})

    lab.backup()

    restored = lab.restore(volume)
    kept = {str(path.relative_to(restored.files)) for path in restored.files.rglob("*") if path.is_file()}
    assert kept == {"keep", "sub/cache/z", "logs/new"}
    assert (restored.files / "cache").is_dir()  # `cache/**` is what lies below it


def test_a_repository_on_the_command_line_is_used_with_the_policys_keys(lab: Lab, tmp_path: Path) -> None:
    volume = lab.volume("files", {"file": b"content"})
    lab.init(volume)
    elsewhere = tmp_path / "elsewhere"
    environment = {"DRKIT_POLICY": str(lab.policy)}
    for arguments in (["init"], ["backup"], ["check"]):
        result = lab.run(*arguments, "--repository", elsewhere, "--json", env=environment)
        assert result.code == 0, result
    listing = lab.run("snapshots", "--repository", elsewhere, "--json", env=environment)
    assert len(json.loads(listing.stdout)["snapshots"]) == 1
    assert lab.snapshots() == []


# --- what changes while it is read ------------------------------------------------------------------------------------


@pytest.fixture
def slow_volume(lab: Lab, rng: random.Random) -> Volume:
    """A volume whose first file takes drkit a second or two, so that what comes behind it can be changed meanwhile."""
    volume = lab.volume("slow")
    with (volume.files / "a-big").open("wb") as file:
        for _ in range(SLOW_PIECES):
            file.write(rng.randbytes(16 * MIB))
    return volume


@contextmanager
def written_over_and_over(path: Path) -> Iterator[None]:
    """By a process of its own, which has no other work and waits for nobody."""
    code = "import os, sys\nfile = os.open(sys.argv[1], os.O_WRONLY)\nwhile True: os.pwrite(file, b'x', 0)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as writer:
        try:
            yield
        finally:
            writer.kill()


def test_a_file_that_is_written_all_the_time_is_listed_as_torn(lab: Lab, rng: random.Random) -> None:
    content = rng.randbytes(64 * MIB)
    volume = lab.volume("torn", {"b-log": content, "c-calm": b"calm"})
    lab.init(volume)

    with written_over_and_over(volume.files / "b-log"):
        document = lab.json("backup")

    [target] = document["targets"]
    assert (document["status"], target["status"], target["torn"]) == ("ok", "ok", ["b-log"])
    new = lab.forget_later(f"{lab.name}-new")
    result = lab.drkit("restore", document["snapshot"], "--volume", volume.name, "--to-volume", new)
    assert result.code == 0, result
    assert "b-log" in result.stderr
    restored = lab.find(new).files
    assert (restored / "b-log").read_bytes() == b"x" + content[1:]
    assert (restored / "c-calm").read_bytes() == b"calm"


def test_a_file_that_changed_only_once_is_read_again(lab: Lab, slow_volume: Volume) -> None:
    log = slow_volume.files / "a-big"
    lab.init(slow_volume)
    process = lab.start("backup", "--policy", lab.policy, "--json")
    first = lab.wait_for_tar(process)
    while first in lab.helpers():
        with log.open("ab") as file:
            file.write(b"more")
    result = finish(process)
    assert result.code == 0, result
    [target] = json.loads(result.stdout)["targets"]
    assert (target["status"], target["torn"]) == ("ok", [])
    assert target["bytes_read"] > 2 * SLOW_PIECES * 16 * MIB
    assert_same(slow_volume, lab.restore(slow_volume))


def test_files_that_vanish_are_listed(lab: Lab, slow_volume: Volume) -> None:
    gone = {f"z-gone/{number:03d}": b"%d" % number for number in range(100)}
    fill(slow_volume.files, {**gone, "z-stays": b"here"})
    lab.init(slow_volume)
    process = lab.start("backup", "--policy", lab.policy, "--json")
    lab.wait_for_tar(process)
    process.send_signal(signal.SIGSTOP)  # tar stands still behind a full pipe
    for path in gone:
        (slow_volume.files / path).unlink()
    process.send_signal(signal.SIGCONT)
    result = finish(process)

    assert result.code == 0, result
    [target] = json.loads(result.stdout)["targets"]
    assert target["status"] == "ok"
    assert target["vanished"] == sorted(gone)
    assert target["vanished_count"] == 100
    assert target["torn"] == []
    restored = lab.restore(slow_volume)
    assert (restored.files / "z-stays").read_bytes() == b"here"
    assert list((restored.files / "z-gone").iterdir()) == []


def test_sockets_are_listed_as_skipped(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = lab.volume("files", {"file": b"content"})
    monkeypatch.chdir(volume.files)  # a socket's name has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("server.sock")
    lab.init(volume)
    [target] = lab.json("backup")["targets"]
    assert (target["status"], target["skipped"], target["skipped_count"]) == ("ok", ["server.sock"], 1)
    assert "skipped socket: " in lab.drkit("backup").stdout


# --- side by side -----------------------------------------------------------------------------------------------------


def test_two_backups_at_once_both_succeed(lab: Lab, rng: random.Random) -> None:
    volume = lab.volume("files", {f"file-{number}": rng.randbytes(2 * MIB) for number in range(20)})
    lab.init(volume)
    running = [lab.start("backup", "--policy", lab.policy, "--json") for _ in range(2)]
    results: list[Result] = [finish(process) for process in running]
    assert [result.code for result in results] == [0, 0], results
    assert {snapshot["id"] for snapshot in lab.snapshots()} == {
        json.loads(result.stdout)["snapshot"] for result in results
    }
    assert lab.json("verify")["errors"] == []
    assert lab.objects("sessions/") == []
    assert_same(volume, lab.restore(volume))


# --- what is shown ----------------------------------------------------------------------------------------------------


def on_terminal(lab: Lab, *arguments: str) -> tuple[Result, str]:
    """Run drkit with a terminal as its stderr; what it wrote there."""
    ours, theirs = pty.openpty()
    process = lab.start(*arguments, "--policy", str(lab.policy), env={"TERM": "xterm"}, stderr=theirs)
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(ours, 65536):
                shown.extend(data)
        except OSError:  # what a terminal gives once nobody has it open
            os.close(ours)

    reader = threading.Thread(target=read)
    reader.start()
    result = finish(process)
    reader.join()
    return result, shown.decode()


def test_progress_is_shown_on_a_terminal_only(lab: Lab, rng: random.Random) -> None:
    volume = lab.volume("files", {"file": rng.randbytes(64 * MIB)})
    lab.init(volume)
    result, shown = on_terminal(lab, "backup")
    assert result.code == 0, shown
    assert f"volume {volume.name}" in shown
    assert "\x1b[" in shown
    assert "snapshot " in result.stdout
    for arguments in (["backup", "--json"], ["backup", "--quiet"]):
        result, shown = on_terminal(lab, *arguments)
        assert (result.code, shown) == (0, ""), arguments
    json.loads(on_terminal(lab, "verify", "--json")[0].stdout)
    piped = lab.drkit("backup")
    assert (piped.code, piped.stderr) == (0, "")
    assert "\x1b" not in piped.stdout


# --- another helper ---------------------------------------------------------------------------------------------------


def test_a_stock_helper_is_recorded_and_shown_as_reduced(lab: Lab, stock_alpine_image: str) -> None:
    volume = lab.volume("files", {"a/file": b"content", "b": b"b"})
    lab.init(volume, helper={"image": stock_alpine_image})

    [target] = lab.json("backup")["targets"]

    assert "xattrs" in " ".join(target["lost"])
    [again] = lab.json("backup")["targets"]
    assert again["bytes_read"] >= target["bytes_read"] > 0  # its captures are always full
    [first, _] = lab.snapshots()
    assert first["targets"][0]["lost"] == target["lost"]
    shown = lab.drkit("backup")
    assert "reduced fidelity: " in shown.stdout
    assert "reduced fidelity" in lab.drkit("snapshots").stdout
    restored = lab.forget_later(f"{lab.name}-new")
    result = lab.drkit("restore", "latest", "--volume", volume.name, "--to-volume", restored)
    assert result.code == 0, result
    assert "not in this snapshot: xattrs" in result.stderr
    assert (lab.find(restored).files / "a" / "file").read_bytes() == b"content"


# --- memory -----------------------------------------------------------------------------------------------------------


def test_memory_stays_bounded_for_a_large_volume(lab: Lab) -> None:
    volume = lab.volume("large")
    command = "head -c 700M /dev/urandom >random; for i in 1 2 3; do cat random | head -c 100M >copy-$i; done"
    subprocess.run(["sh", "-c", command], cwd=volume.files, check=True)
    lab.init(volume)
    new = lab.forget_later(f"{lab.name}-new")
    verbs = (["backup"], ["verify"], ["restore", "latest", "--volume", volume.name, "--to-volume", new])
    peaks = {}
    for arguments in verbs:
        result = lab.drkit(*arguments)
        assert result.code == 0, result
        peaks[arguments[0]] = result.peak_memory // MIB
    assert max(peaks.values()) < 250, f"MiB: {peaks}"
