"""What drkit writes lies apart from what it protects, however it is named; and not in memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.lab import Lab, Volume


@contextmanager
def mounted(*arguments: str | Path) -> Iterator[Path]:
    target = Path(arguments[-1])
    target.mkdir(exist_ok=True)
    subprocess.run(["mount", *map(str, arguments)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", "--lazy", target], check=True)


def policy_with(lab: Lab, volume: Volume | dict[str, object], place: Path, **repository: str) -> None:
    lab.write_policy(volume)
    policy = json.loads(lab.policy.read_text())
    policy["repository"] |= {"url": str(place), **repository}
    lab.policy.write_text(json.dumps(policy))


def refused(lab: Lab, volume: Volume, place: Path, *, inside: bool = True) -> None:
    """A backup stores nothing and starts no helper; doctor says the same."""
    policy_with(lab, volume, place)
    before = sorted(path for path in volume.files.rglob("*"))
    said = lab.fails(2, "backup")
    assert volume.name in said
    assert f"the repository {place}" in said
    assert "hint: Keep" in said
    assert not inside or "exclude: ['/" in said or "is the directory of the volume" in said
    assert lab.fails(2, "backup", "--dry-run") == said
    assert lab.helpers() == []
    assert sorted(path for path in volume.files.rglob("*")) == before
    doctor = lab.drkit("doctor", "--json")
    assert doctor.code >= 2
    findings = json.loads(doctor.stdout)["findings"]
    [found] = [each for each in findings if each["check"] == "engine" and each["status"] == "failed"]
    assert volume.name in found["detail"]


def moved(lab: Lab, volume: Volume, place: Path) -> Path:
    """A repository that was made elsewhere, at a place where init would not make it."""
    if not lab.repository.exists():
        lab.init(volume)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(lab.repository, place)
    return place


def test_a_repository_in_a_volume_however_it_is_named(lab: Lab) -> None:
    volume = lab.volume("data", {"file": b"content"})
    place = moved(lab, volume, volume.files / "back ups" / "drkit")
    refused(lab, volume, place)
    assert "is the directory" not in lab.fails(2, "policy", "check", "--policy", lab.policy)
    link = lab.directory / "link"
    link.symlink_to(place)
    refused(lab, volume, link)
    refused(lab, volume, lab.directory / "x" / ".." / "link")
    with ExitStack() as stack:
        whole = stack.enter_context(mounted("--bind", volume.files, lab.directory / "whole"))
        refused(lab, volume, whole / "back ups" / "drkit")
        # Of its parents none is the volume's directory: only the list of mounts tells where it lies.
        part = stack.enter_context(mounted("--bind", volume.files / "back ups", lab.directory / "part"))
        refused(lab, volume, part / "drkit")
        refused(lab, volume, stack.enter_context(mounted("--bind", place, lab.directory / "itself")))


def test_a_repository_in_what_is_mounted_below_a_volume(lab: Lab) -> None:
    volume = lab.volume("data", {"file": b"content"})
    outside = lab.directory / "outside"
    place = moved(lab, volume, outside / "deep" / "drkit")
    with mounted("--bind", outside, volume.files / "sub"):
        refused(lab, volume, place)
        assert "exclude: ['/sub/deep/drkit/']" in lab.fails(2, "backup")
        policy_with(lab, {"name": volume.name, "exclude": ["/sub/"]}, place)
        lab.json("backup")
    with mounted("--bind", place, volume.files / "sub"):
        refused(lab, volume, place)
    policy_with(lab, volume, place)
    lab.json("backup")


def test_a_repository_in_a_disk_image_in_a_volume(lab: Lab) -> None:
    volume = lab.volume("data", {"file": b"content"})
    image = volume.files / "disk.img"
    image.touch()
    os.truncate(image, 32 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    with mounted("-o", "loop", image, lab.directory / "disk") as disk:
        place = moved(lab, volume, disk / "drkit")
        policy_with(lab, volume, place)
        said = lab.fails(2, "backup")
        assert f"the disk image of the repository {image} lies in the volume {volume.name}" in said
        assert "exclude: ['/disk.img']" in said
        policy_with(lab, {"name": volume.name, "exclude": ["/disk.img/"]}, place)  # which is no directory
        assert volume.name in lab.fails(2, "backup")
        policy_with(lab, {"name": volume.name, "exclude": ["/disk.img"]}, place)
        lab.json("backup")


def test_an_excluded_repository_is_apart(lab: Lab) -> None:
    volume = lab.volume("data", {"file": b"content"})
    place = moved(lab, volume, volume.files / "backups" / "drkit")
    for patterns in (["/backups/"], ["drkit"], ["/backups/drkit/**"], ["/backups/*"]):
        policy_with(lab, {"name": volume.name, "exclude": patterns}, place)
        assert lab.drkit("policy", "check").code == 0
        assert lab.json("backup")["targets"][0]["files"] <= 4
    for patterns in (["/other/"], ["/backups/", "!/backups/"], ["/backups/drkit/packs/"], ["/drkit"]):
        policy_with(lab, {"name": volume.name, "exclude": patterns}, place)
        assert volume.name in lab.fails(2, "backup")
        assert volume.name in lab.fails(2, "policy", "check")
    # Another volume's patterns exclude nothing here, and what is not captured does not matter.
    other = lab.volume("other", {"file": b"content"})
    lab.write_policy({"name": other.name, "exclude": ["/backups/"]}, volume)
    policy = json.loads(lab.policy.read_text())
    policy["repository"]["url"] = str(place)
    lab.policy.write_text(json.dumps(policy))
    assert volume.name in lab.fails(2, "backup")
    assert lab.json("backup", "--target", other.name)["status"] == "ok"


def test_a_volume_that_is_bound_to_a_directory(lab: Lab) -> None:
    data = lab.directory / "srv" / "data"
    data.mkdir(parents=True)
    volume = lab.volume("bound", driver_opts={"type": "none", "o": "bind", "device": str(data)})
    volume = Volume(volume.name, data)
    refused(lab, volume, moved(lab, volume, data / "drkit"))
    shutil.rmtree(data / "drkit")
    refused(lab, volume, data)
    # The other way round: the volume in the directory of the repository.
    outer = moved(lab, volume, lab.directory / "outer")
    (outer / "volume").mkdir()
    inner = lab.volume("inner", driver_opts={"type": "none", "o": "bind", "device": str(outer / "volume")})
    refused(lab, Volume(inner.name, outer / "volume"), outer, inside=False)
    # A directory beside it whose name begins alike is another one.
    beside = moved(lab, volume, lab.directory / "srv" / "data-backups")
    policy_with(lab, volume, beside)
    assert lab.json("backup")["status"] == "ok"


def test_mirror_and_state_in_a_volume(lab: Lab) -> None:
    volume = lab.volume("data", {"file": b"content"})
    lab.init(volume)
    lab.write_policy(volume, mirror={"url": str(volume.files / "mirror")})
    assert f"the mirror {volume.files / 'mirror'} lies in the volume {volume.name}" in lab.fails(2, "backup")
    assert volume.name in lab.fails(2, "policy", "check")
    lab.write_policy(volume)
    state = {"DRKIT_STATE_DIR": str(volume.files / "state")}
    failed = lab.drkit("backup", env=state)
    assert failed.code == 2
    assert f"the state directory {volume.files / 'state'} lies in the volume {volume.name}" in failed.stderr
    exchange = {"DRKIT_EXCHANGE_DIR": str(volume.files), "DRKIT_EXCHANGE_VOLUME": volume.name}
    assert f"the exchange directory {volume.files}" in lab.drkit("backup", env=exchange).stderr
    assert lab.drkit("backup").code == 0


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_a_repository_in_memory(lab: Lab, kind: str) -> None:
    volume = lab.volume("data", {"file": b"content"})
    with mounted("-t", kind, kind, lab.repository):
        lab.repository.chmod(0o700)
        lab.write_policy(volume)
        assert f"in memory ({kind})" in lab.fails(13, "init")
        assert list(lab.repository.iterdir()) == []
        policy_with(lab, volume, lab.directory / "disk")
        lab.json("init")
        shutil.copytree(lab.directory / "disk", lab.repository, dirs_exist_ok=True)
        lab.write_policy(volume)
        before = lab.objects()
        assert f"in memory ({kind})" in lab.fails(13, "backup")
        assert lab.objects() == before
        findings = lab.json("doctor", code=13)["findings"]
        assert [each["status"] for each in findings if f"in memory ({kind})" in each["detail"]] == ["failed"]
        assert lab.snapshots() == []
