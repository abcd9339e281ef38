"""What a restore did not make: data that a "new" volume holds, and data that came while nobody looked."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from drkit.engine.labels import LABEL_HELPER, LABEL_RESTORE
from tests.support.lab import Lab, Volume, fill, finish
from tests.support.treecompare import compare_trees, describe, scan_tree

MIB = 1 << 20


# --- a new volume that holds something --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "held", ["etc/app.conf", "..odd", "lost+found/x", "a\nb", "dangling link", "lost+found of a user"]
)
def test_a_new_volume_that_holds_data_is_left_as_it_is(lab: Lab, tmp_path: Path, held: str) -> None:
    """As from a driver with options, or a plugin: here a directory of the host, which --same-device asks for."""
    device = tmp_path / "device"
    device.mkdir()
    options = {"type": "none", "o": "bind", "device": str(device)}
    volume = lab.volume("bound", driver="local", driver_opts=options)
    (device / "file").write_bytes(b"recorded")
    lab.init(volume)
    lab.backup()
    lab.remove(volume)
    shutil.rmtree(device)
    device.mkdir()
    if held == "dangling link":
        (device / held).symlink_to("nowhere")
    elif held == "lost+found of a user":
        (device / "lost+found").mkdir()
        os.chown(device / "lost+found", 1000, 1000)
    else:
        fill(device, {held: b"production"})
    before = scan_tree(device)

    said = lab.fails(1, "restore", "latest", "--volume", volume.name, "--same-device")

    assert "although it is new" in said
    assert "Nothing is written" in said
    assert f"docker volume inspect {volume.name}" in said
    assert scan_tree(device) == before
    assert list((lab.state / "restores").iterdir()) == []
    assert lab.helpers() == []


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    """A block device with a fresh ext4."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(32 * MIB)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    loop = subprocess.run(["losetup", "-f", "--show", image], check=True, capture_output=True, text=True).stdout.strip()
    yield loop
    subprocess.run(["losetup", "-d", loop], check=True)


def test_a_fresh_ext4_is_empty(lab: Lab, device: str) -> None:
    """Its lost+found is nobody's data, and no part of what is verified."""
    volume = lab.volume("disk", driver="local", driver_opts={"type": "ext4", "device": device})
    lab.init({"name": volume.name, "exclude": ["lost+found/"]})
    lab.backup()
    lab.remove(volume)
    document = lab.json("restore", "latest", "--volume", volume.name, "--same-device")
    assert (document["verified"], document["files"]) == (True, 1)
    assert lab.api.inspect_volume(volume.name)["Options"]["device"] == device
    # And where the snapshot has a directory of that name, it comes back like any other.
    lab.write_policy(volume)
    lab.backup()
    copy = lab.restore(volume)
    assert [path.name for path in copy.files.iterdir()] == ["lost+found"]


# --- an interrupted restore -------------------------------------------------------------------------------------------


class Half(NamedTuple):
    """A volume as a killed restore leaves it: whole files, one that is not, what tar puts in the place of a link."""

    lab: Lab
    original: Volume
    name: str
    files: Path
    note: dict[str, Any]

    def again(self) -> list[str]:
        return ["restore", "latest", "--volume", self.original.name, "--to-volume", self.name]


@pytest.fixture(scope="module")
def original(module_lab: Lab, seed: int) -> Volume:
    rng = random.Random(seed)
    volume = module_lab.volume("data", {f"file-{number}": rng.randbytes(MIB) for number in range(4)})
    fill(volume.files, {"a/small": b"x", "zz": b"z"})
    (volume.files / "absolute").symlink_to("/etc/hostname")
    (volume.files / "linked").hardlink_to(volume.files / "file-0")
    with (volume.files / "file-2").open("r+b") as file:
        file.truncate(8 * MIB)  # with a hole
    module_lab.init(volume)
    module_lab.backup()
    return volume


@pytest.fixture
def half(module_lab: Lab, original: Volume) -> Iterator[Half]:
    lab = module_lab
    name = f"{lab.name}-half"
    probed = json.loads(lab.run("helper", "probe", "--json").stdout)
    note = {
        "restore_id": "0123456789abcdef",
        "helper": probed["helper"]["image_id"],
        "snapshot": lab.snapshots()[0]["id"],
        "target": original.name,
        "paths": [],
    }
    lab.api.create_volume(name, labels={LABEL_RESTORE: note["restore_id"]})
    files = lab.find(name).files
    subprocess.run(["cp", "-a", "--sparse=always", f"{original.files}/.", files], check=True)
    for path in ("file-3", "zz", "absolute"):
        (files / path).unlink()
    (files / "absolute").touch(mode=0)
    content = (original.files / "file-3").read_bytes()
    (files / "file-3").write_bytes(content[: 300 * 1024])
    (lab.state / "restores").mkdir(exist_ok=True)
    (lab.state / "restores" / name).write_text(json.dumps(note))
    yield Half(lab, original, name, files, note)
    (lab.state / "restores" / name).unlink(missing_ok=True)
    if lab.exists(name):
        lab.api.remove_volume(name)


def test_what_a_killed_restore_left_is_removed_when_nothing_else_is_there(half: Half) -> None:
    result = half.lab.drkit(*half.again())
    assert result.code == 0, result
    found = compare_trees(half.original.files, half.files)
    assert not found, describe(found)


@pytest.mark.parametrize("size", [0, MIB, 2 * MIB])
def test_a_sparse_file_may_be_the_unfinished_one(half: Half, size: int) -> None:
    """Of which the beginning is there, and a hole or two."""
    for path in ("file-3", "file-2"):
        (half.files / path).unlink()
    with (half.files / "file-2").open("wb") as file:
        file.write((half.original.files / "file-2").read_bytes()[: min(size, MIB)])
        file.truncate(size)
    assert half.lab.drkit(*half.again()).code == 0


def _append(files: Path) -> None:
    with (files / "file-3").open("ab") as file:
        file.write(b"production")


def _overwrite(files: Path) -> None:
    with (files / "file-3").open("r+b") as file:
        file.write(b"production")


def _grow(files: Path) -> None:
    """Both: what was unfinished was finished by another hand, and one that was whole is written to."""
    os.utime(files / "file-1")
    os.utime(files / "file-3")


def _fill_the_place_of_the_link(files: Path) -> None:
    (files / "absolute").write_bytes(b"production")


USES: dict[str, Callable[[Path], object]] = {
    "a new file": lambda files: (files / "order-1").write_bytes(b""),
    "a new file of a known name": lambda files: (files / "zz").write_bytes(b"production"),
    "a changed file": lambda files: (files / "file-0").write_bytes(b"production"),
    "the unfinished file goes on": _append,
    "the unfinished file begins differently": _overwrite,
    "two unfinished files": _grow,
    "a file in the place of a link": _fill_the_place_of_the_link,
    "a new directory": lambda files: (files / "queue").mkdir(),
    "a socket": lambda files: os.mknod(files / "app.sock", 0o140600),
}


@pytest.mark.parametrize("use", USES)
def test_what_was_written_since_is_left_and_named(half: Half, use: str) -> None:
    USES[use](half.files)
    before = scan_tree(half.files)
    said = half.lab.fails(1, *half.again())
    assert "is not from the snapshot" in said or "was written after the restore" in said, said
    assert f"docker volume rm {half.name}" in said
    assert scan_tree(half.files) == before
    if use == "a new file":
        half.lab.api.remove_volume(half.name)
        assert half.lab.drkit(*half.again()).code == 0


def test_a_container_that_mounts_it_is_named(half: Half, busybox_image: str) -> None:
    """Also one that never ran, calls itself a helper of this very restore, or goes by the host's path."""
    api, name = half.lab.api, f"{half.lab.name}-app"
    labels = {LABEL_HELPER: half.note["restore_id"]}
    for source in (half.name, f"{half.files}/a"):
        host = api.create_host_config(binds=[f"{source}:/data"])
        box = api.create_container(busybox_image, "true", name=name, host_config=host, labels=labels)
        try:
            said = half.lab.fails(1, *half.again())
            assert f"container {name} mounts it" in said
            assert f"docker rm {name}" in said
            assert api.inspect_container(box)["State"]["Status"] == "created"
        finally:
            api.remove_container(box, force=True)
    assert half.lab.drkit(*half.again()).code == 0


def test_without_its_snapshot_only_an_empty_volume_is_removed(half: Half) -> None:
    note = half.note | {"snapshot": "20200101t000000z-00000000"}
    (half.lab.state / "restores" / half.name).write_text(json.dumps(note))
    assert "snapshot 20200101t000000z-00000000 cannot be asked" in half.lab.fails(1, *half.again())
    (half.lab.state / "restores" / half.name).write_text(half.note["restore_id"])  # as earlier versions wrote it
    assert "cannot be asked" in half.lab.fails(1, *half.again())
    for path in half.files.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert half.lab.drkit(*half.again()).code == 0


def test_an_undo_stops_at_what_came_meanwhile(lab: Lab, rng: random.Random) -> None:
    volume = lab.volume("large", {f"file-{number:02d}": rng.randbytes(16 * MIB) for number in range(8)})
    lab.init(volume)
    lab.backup()
    new = lab.forget_later(f"{lab.name}-new")
    process = lab.start("restore", "latest", "--volume", volume.name, "--to-volume", new, "--policy", lab.policy)
    lab.wait_for_tar(process)
    files = lab.find(new).files
    (files / "order-1").write_bytes(b"production")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    result = finish(process)
    assert result.code in (129, 143), result
    assert "not verified, and not removed: " in result.stderr
    assert "order-1 is not from the snapshot" in result.stderr
    assert (files / "order-1").read_bytes() == b"production"
    assert lab.helpers() == []
