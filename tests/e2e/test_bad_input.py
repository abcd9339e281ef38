"""Wrong, damaged and missing things: a clear error with its exit code, and nothing lost or half written."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.lab import Lab, Volume

MIB = 1 << 20


class Pristine(NamedTuple):
    """A repository with one snapshot of one volume, to be copied and then damaged."""

    lab: Lab
    volume: Volume
    snapshot: str
    copy: Path


@pytest.fixture(scope="module")
def pristine(module_lab: Lab) -> Pristine:
    lab = module_lab
    volume = lab.volume("data", {"a/file": bytes(range(256)) * 4096, "b": b"small"})
    lab.init(volume)
    snapshot = lab.backup()
    copy = lab.directory / "pristine"
    for place in (lab.repository, lab.state):
        shutil.copytree(place, copy / place.name)
    return Pristine(lab, volume, snapshot, copy)


@pytest.fixture
def repository(pristine: Pristine) -> Iterator[Lab]:
    """The laboratory with its repository, and what the host remembers of it, as they were, whatever tests do to it."""
    yield pristine.lab
    for place in (pristine.lab.repository, pristine.lab.state):
        shutil.rmtree(place)
        shutil.copytree(pristine.copy / place.name, place)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.chmod(0o600)
    path.write_bytes(data)


# --- keys -------------------------------------------------------------------------------------------------------------


def with_identity(lab: Lab, identity: Path, *arguments: str) -> tuple[int, str]:
    result = lab.drkit(*arguments, env={"DRKIT_IDENTITY_FILE": str(identity)})
    assert "Traceback" not in result.stderr
    for line in lab.identity.read_text().splitlines():
        assert not (line.startswith("AGE-SECRET-KEY") and line[20:] in result.stdout + result.stderr)
    return result.code, result.stderr


def test_a_wrong_missing_or_broken_identity_is_12(pristine: Pristine, tmp_path: Path) -> None:
    lab = pristine.lab
    other = Lab(lab.api, tmp_path, "other")
    other.init(pristine.volume)
    code, said = with_identity(lab, other.identity, "snapshots")
    assert (code, "opens no key of this repository" in said) == (12, True)
    code, said = with_identity(lab, tmp_path / "none.txt", "snapshots")
    assert (code, "none.txt" in said) == (12, True)
    broken = tmp_path / "broken.txt"
    broken.write_text(lab.identity.read_text().replace("AGE-SECRET-KEY-1", "AGE-SECRET-KEY-1Q"))
    broken.chmod(0o600)
    code, said = with_identity(lab, broken, "snapshots")
    assert (code, "damaged" in said) == (12, True)
    broken.write_bytes(b"\xff\xfe no text")
    assert with_identity(lab, broken, "snapshots")[0] == 12
    broken.write_text("age1notasecret\n")
    assert with_identity(lab, broken, "snapshots")[0] == 12


def test_an_identity_that_others_can_read_is_warned_of(pristine: Pristine, tmp_path: Path) -> None:
    shared = tmp_path / "shared.txt"
    shutil.copy(pristine.lab.identity, shared)
    shared.chmod(0o644)
    code, said = with_identity(pristine.lab, shared, "snapshots")
    assert (code, said.startswith("warning: ")) == (0, True)
    assert f"chmod 600 {shared}" in said
    assert with_identity(pristine.lab, pristine.lab.identity, "snapshots") == (0, "")


def test_recipients_that_cannot_be_read_stop_a_backup(repository: Lab) -> None:
    good = repository.recipients.read_text()
    for text in ("", "age1nonsense\n"):
        repository.recipients.write_text(text)
        assert str(repository.recipients) in repository.fails(2, "backup")
    repository.recipients.unlink()
    assert str(repository.recipients) in repository.fails(2, "backup")
    repository.recipients.write_text(good)
    repository.backup()


# --- the repository ---------------------------------------------------------------------------------------------------


def test_no_repository_is_10(pristine: Pristine, tmp_path: Path) -> None:
    lab, empty = pristine.lab, tmp_path / "empty"
    empty.mkdir()
    for place in (empty, tmp_path / "none", lab.policy):
        for verb in (["snapshots"], ["backup"], ["check"], ["restore", "latest", "--volume", "x"]):
            result = lab.drkit(*verb, "--repository", str(place))
            assert (result.code, str(place) in result.stderr) == (10, True), (verb, result)
    assert list(empty.iterdir()) == []
    assert not (tmp_path / "none").exists()


def test_init_never_touches_an_existing_repository(pristine: Pristine) -> None:
    before = {path: path.read_bytes() for path in pristine.lab.objects()}
    assert "holds a repository already" in pristine.lab.fails(1, "init")
    assert {path: path.read_bytes() for path in pristine.lab.objects()} == before


def test_a_config_that_is_damaged_or_from_the_future(repository: Lab) -> None:
    config = repository.repository / "config"
    text = config.read_text()
    config.chmod(0o600)
    for broken in ("", "{", "[]", text.replace("drkit", "other"), text.replace('"id": "', '"id": "00')):
        config.write_text(broken)
        assert "config" in repository.fails(20, "backup")
    config.write_text(text.replace("fastcdc", "fastcdd"))
    assert "does not authenticate" in repository.fails(20, "check")
    config.write_text(text.replace('"version": 1', '"version": 2'))
    assert "format 2" in repository.fails(1, "backup")
    config.unlink()
    assert "holds no drkit repository" in repository.fails(10, "check")
    assert repository.objects("sessions/") == []


def pack(magic: bytes) -> Callable[[Lab], Path]:
    def choose(lab: Lab) -> Path:
        packs = [path for path in lab.objects("packs/") if path.read_bytes()[:8] == magic]
        return max(packs, key=lambda path: path.stat().st_size)

    return choose


OBJECTS: dict[str, Callable[[Lab], Path]] = {
    "snapshots": lambda lab: lab.objects("snapshots/")[0],
    "index": lambda lab: lab.objects("index/")[0],
    "data key": lambda lab: next(path for path in lab.objects("keys/") if path.parent.name != "meta"),
    "meta key": lambda lab: lab.objects("keys/meta/")[0],
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_flipped_bit_is_found_and_named(repository: Lab, pristine: Pristine, kind: str) -> None:
    path = OBJECTS[kind](repository)
    key = repository.key(path)
    flip(path, path.stat().st_size // 2)
    for verb in ("check", "verify"):
        result = repository.drkit(verb, "--json")
        assert result.code == 20, (verb, result)
        assert key in result.stdout
        document = json.loads(result.stdout)
        if kind in ("index", "data key"):
            error = next(error for error in document["errors"] if error["object"] == key)
            assert error["snapshots"] == [pristine.snapshot]
        assert key in repository.fails(20, verb) + repository.drkit(verb).stdout


@pytest.mark.parametrize("where", ["data pack", "tree pack", "directory of a pack"])
def test_a_flipped_bit_in_a_pack_is_found_with_the_files_it_hits(
    repository: Lab, pristine: Pristine, where: str
) -> None:
    repository.write_policy(pristine.volume)
    path = the_volumes_pack(repository, b"DRKITP1t" if where == "tree pack" else b"DRKITP1d")
    flip(path, -40 if where == "directory of a pack" else 60)

    document = repository.json("verify", code=20)

    error = next(error for error in document["errors"] if error["object"] == repository.key(path))
    assert error["problem"]
    if where == "data pack":
        assert error["snapshots"] == [pristine.snapshot]
        assert f"volume {pristine.volume.name}: a/file" in error["files"]
        assert repository.json("check")["status"] == "ok"  # it reads no data
    else:
        assert repository.json("check", code=20)["errors"]


def the_volumes_pack(lab: Lab, magic: bytes) -> Path:
    """The pack that the only volume's members or tree went to: the first that was written."""
    packs = [path for path in lab.objects("packs/") if path.read_bytes()[:8] == magic]
    return min(packs, key=lambda path: path.stat().st_mtime_ns)


def test_a_missing_pack_is_found_with_the_files_it_hits(repository: Lab, pristine: Pristine) -> None:
    path = the_volumes_pack(repository, b"DRKITP1d")
    path.unlink()
    for verb in ("check", "verify"):
        [error] = repository.json(verb, code=20)["errors"]
        assert error["object"] == repository.key(path)
        assert error["snapshots"] == [pristine.snapshot]
        assert f"volume {pristine.volume.name}: a/file" in error["files"]
    new = f"{repository.name}-new"
    assert repository.key(path) in repository.fails(
        20, "restore", "latest", "--volume", pristine.volume.name, "--to-volume", new
    )
    assert not repository.exists(new)


def test_a_damaged_record_does_not_hide_the_others(repository: Lab, pristine: Pristine) -> None:
    path = repository.objects("snapshots/")[0]
    second = repository.backup()
    flip(path, 50)
    result = repository.drkit("snapshots", "--json")
    assert result.code == 20
    document = json.loads(result.stdout)
    assert [snapshot["id"] for snapshot in document["snapshots"]] == [second]
    assert document["damaged"] == [repository.key(path)]
    assert repository.key(path) in result.stderr
    new = repository.forget_later(f"{repository.name}-new")
    repository.json("restore", "latest", "--volume", pristine.volume.name, "--to-volume", new)
    repository.remove(repository.find(new))


def test_a_read_only_repository_can_be_read(repository: Lab, pristine: Pristine) -> None:
    place = str(repository.repository)
    subprocess.run(["mount", "--bind", place, place], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        said = repository.fails(12, "backup")
        assert "read-only file system" in said
        assert len(repository.snapshots()) == 1
        assert repository.json("verify")["status"] == "ok"
        new = repository.forget_later(f"{repository.name}-ro")
        repository.json("restore", "latest", "--volume", pristine.volume.name, "--to-volume", new)
        repository.remove(repository.find(new))
    finally:
        subprocess.run(["umount", place], check=True)


# --- policies and names -----------------------------------------------------------------------------------------------


def test_a_wrong_policy_is_2_with_every_problem_at_its_line(pristine: Pristine, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nname: x\nrepositry: {}\nprotect:\n  volumes:\n    - name: 'a b'\n")
    for verb in (["policy", "check"], ["backup"], ["snapshots"]):
        result = pristine.lab.run(*verb, "--policy", policy)
        assert result.code == 2, (verb, result)
        assert f"{policy}:3: repositry: unknown key, did you mean repository?" in result.stderr
        assert f"{policy}:6: " in result.stderr
    result = pristine.lab.run("backup", "--policy", tmp_path / "none.yaml", "--json")
    assert (result.code, json.loads(result.stdout)["exit_code"]) == (2, 2)
    assert "no such file or directory" in result.stderr
    policy.write_bytes(b"\x00\xff")
    assert pristine.lab.run("backup", "--policy", policy).code == 2


@pytest.mark.parametrize("name", ["a b", "../x", "-v", "a/b", "$(id)", "", "x\ny"])
def test_a_name_that_no_volume_can_have_is_2(pristine: Pristine, name: str) -> None:
    lab = pristine.lab
    lab.write_policy(name, path=lab.directory / "bad-name.yaml")
    assert lab.run("backup", "--policy", lab.directory / "bad-name.yaml").code == 2
    result = lab.drkit("restore", "latest", "--volume", pristine.volume.name, f"--to-volume={name}")
    assert result.code == (1 if not name else 2), result
    assert "Traceback" not in result.stderr
