"""What comes back is what was there: every file type and every oddity, through the real engine and command line.

The trees are compared by a comparator that reads the volumes' files on this host and knows nothing of drkit; see
tests/support. What cannot be carried has to be said: sockets, privileged attributes, all that BusyBox drops.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import docker
import pytest

from tests.support.lab import know_helper
from tests.support.mutations import mutate_tree
from tests.support.torture import ACCESS_ACL, DEFAULT_ACL, MIB, make_torture_tree, named_acl
from tests.support.treecompare import compare_trees, describe, scan_tree

# A member is taken over from an earlier snapshot only if it had been left alone for this long when that was made.
SETTLED_SECONDS = 125
# The engine answers once a volume is gone; where many files were deleted lately, 100,000 more take over a minute.
REMOVAL_SECONDS = 600
ROUNDS = 6
MUTATIONS_A_ROUND = 60
SOCKETS_SHOWN = [r"sockets/new\x0aline", "sockets/socket", r"sockets/\xff"]


class Volume(NamedTuple):
    name: str
    files: Path


class Lab:
    """One test's policy, repository and volumes."""

    def __init__(self, api: docker.APIClient, cli: Callable[..., Any], directory: Path, name: str) -> None:
        self.api, self.cli, self.directory, self.name = api, cli, directory, name
        self.policy = directory / "policy.yaml"
        self.made: list[str] = []

    def volume(self, suffix: str) -> Volume:
        name = f"{self.name}-{suffix}"
        self.api.create_volume(name)
        self.made.append(name)
        return self.find(name)

    def find(self, name: str) -> Volume:
        return Volume(name, Path(self.api.inspect_volume(name)["Mountpoint"]))

    def protect(self, volume: Volume, *, helper: str = "auto", **options: object) -> None:
        """Write the policy and make the repository."""
        document = {
            "version": 1,
            "name": "fidelity",
            "host": "test",
            "repository": {
                "url": str(self.directory / "repository"),
                "recipients_file": str(self.directory / "recipients.txt"),
                "identity_file": str(self.directory / "identity.txt"),
            },
            "protect": {"volumes": [{"name": volume.name, **options}]},
            "helper": {"image": helper},
        }
        self.policy.write_text(json.dumps(document))  # which is YAML too
        self.run("init")

    def run(self, verb: str, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
        result = self.cli(verb, *arguments, "--policy", self.policy, "--json", timeout=900)
        assert result.code == code, f"drkit {verb} ended with {result.code}: {result.stderr}\n{result.stdout}"
        report: dict[str, Any] = json.loads(result.stdout)
        return report

    def backup(self) -> dict[str, Any]:
        """The report on the one target."""
        report = self.run("backup")
        assert report["status"] == "ok"
        [target] = report["targets"]
        assert (target["kind"], target["status"], target["error"]) == ("volume", "ok", None)
        assert not target["torn"]
        return dict(target)

    def restore(self, volume: Volume) -> Volume:
        name = f"{volume.name}-restored-{len(self.made)}"
        self.made.append(name)
        report = self.run("restore", "latest", "--volume", volume.name, "--to-volume", name)
        assert (report["status"], report["volume"], report["verified"]) == ("ok", name, True)
        return self.find(name)

    def remove(self, volume: Volume) -> None:
        self.made.remove(volume.name)
        self.api.remove_volume(volume.name)


@pytest.fixture
def lab(engine_url: str, drkit_cli: Callable[..., Any], tmp_path: Path, unique_name: str) -> Iterator[Lab]:
    with closing(docker.APIClient(base_url=engine_url, timeout=REMOVAL_SECONDS)) as api:
        lab = Lab(api, drkit_cli, tmp_path, unique_name)
        know_helper(tmp_path / "state")
        yield lab
        remove_volumes(api, lab.made)


def remove_volumes(api: docker.APIClient, names: list[str]) -> None:
    there = {volume["Name"] for volume in api.volumes()["Volumes"] or []}
    for name in names:
        if name in there:
            api.remove_volume(name)


@pytest.fixture(scope="module", autouse=True)
def _settling(engine_url: str, seed: int) -> Iterator[tuple[Volume, float]]:
    """Made before the first test here, so that little is left to wait for when a test needs it."""
    name = f"drkit-test-settled-{random.SystemRandom().randrange(2**32):08x}"
    with closing(docker.APIClient(base_url=engine_url, timeout=REMOVAL_SECONDS)) as api:
        volume = Volume(name, Path(api.create_volume(name)["Mountpoint"]))
        try:
            make_torture_tree(volume.files, random.Random(seed), many=2000, huge_files=False)
            yield volume, time.monotonic()
        finally:
            remove_volumes(api, [name])


@pytest.fixture
def settled_volume(_settling: tuple[Volume, float]) -> Volume:
    """A volume with a torture tree that nothing has changed for long enough; tests share it and change it."""
    volume, made = _settling
    time.sleep(max(0.0, made + SETTLED_SECONDS - time.monotonic()))
    return volume


def assert_equal(original: Volume | Path, restored: Volume | Path, *, ignore: tuple[str, ...] = ()) -> None:
    left, right = (it.files if isinstance(it, Volume) else it for it in (original, restored))
    found = compare_trees(left, right, ignore=ignore)
    assert not found, describe(found)


# --- everything -------------------------------------------------------------------------------------------------------


def test_every_oddity_comes_back(lab: Lab, rng: random.Random) -> None:
    volume = lab.volume("torture")
    make_torture_tree(volume.files, rng)
    os.sync()  # how much is allocated shows only once it is written
    before = scan_tree(volume.files)
    lab.protect(volume)

    target = lab.backup()

    assert sorted(target["skipped"]) == sorted(SOCKETS_SHOWN)
    # Without the policy's trusted_xattrs nobody can see whether there are any: that is always told.
    assert [text for text in target["lost"] if "trusted" not in text] == []
    assert scan_tree(volume.files) == before  # nothing was changed by being read
    restored = lab.restore(volume)
    assert_equal(volume, restored)
    assert not [path for path, entry in scan_tree(restored.files).items() if entry.kind == "socket"]


def test_export_is_a_tar_that_gnu_tar_extracts_to_the_same_tree(lab: Lab, rng: random.Random, tmp_path: Path) -> None:
    volume = lab.volume("export")
    make_torture_tree(volume.files, rng, many=2000)
    lab.protect(volume)
    lab.backup()
    archive, extracted = tmp_path / "export.tar", tmp_path / "extracted"
    extracted.mkdir()

    lab.run("export", "latest", "--volume", volume.name, "-o", archive)

    # In the directory, not with --directory: GNU tar then reaches paths as long as the kernel takes.
    command = ["tar", "--extract", "--file", str(archive), "--numeric-owner", "--same-owner", "--same-permissions"]
    command += ["--xattrs", "--xattrs-include=*", "--delay-directory-restore", "--warning=no-timestamp"]
    done = subprocess.run(command, cwd=extracted, capture_output=True, text=True, errors="replace", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert_equal(volume, extracted)


def test_an_empty_volume_comes_back_and_is_not_changed_by_being_read(lab: Lab) -> None:
    volume = lab.volume("empty")
    os.chown(volume.files, 999, 998)
    volume.files.chmod(0o2751)
    os.setxattr(volume.files, DEFAULT_ACL, named_acl(33, 998))
    os.utime(volume.files, ns=(1, 1_234_567_890_123_456_789))
    before = scan_tree(volume.files)
    lab.protect(volume)
    lab.backup()
    assert scan_tree(volume.files) == before
    assert_equal(volume, lab.restore(volume))


# --- what takes a privilege -------------------------------------------------------------------------------------------


def test_trusted_xattrs_come_back_where_the_policy_says_so(lab: Lab, rng: random.Random) -> None:
    volume = lab.volume("trusted")
    make_torture_tree(volume.files, rng, many=10, huge_files=False, trusted_xattrs=True, security_xattrs=True)
    lab.protect(volume, trusted_xattrs=True)
    assert lab.backup()["lost"] == []
    assert_equal(volume, lab.restore(volume))


def test_trusted_xattrs_are_recorded_as_lost_otherwise(lab: Lab, rng: random.Random) -> None:
    volume = lab.volume("untrusted")
    make_torture_tree(volume.files, rng, many=10, huge_files=False, trusted_xattrs=True)
    lab.protect(volume)
    assert [text for text in lab.backup()["lost"] if "trusted" in text]
    restored = lab.restore(volume)
    assert_equal(volume, restored, ignore=("xattr trusted.*",))
    assert not [entry for entry in scan_tree(restored.files).values() if "trusted.root" in entry.xattrs]


def test_a_path_longer_than_the_kernel_takes_is_an_error_that_names_it(lab: Lab, rng: random.Random) -> None:
    volume = lab.volume("too-long")
    make_torture_tree(volume.files, rng, many=10, huge_files=False, beyond_path_max=True)
    lab.protect(volume)
    result = lab.cli("backup", "--policy", lab.policy, "--json")
    assert result.code in (3, 15), result
    [target] = json.loads(result.stdout)["targets"]
    assert target["status"] != "ok"
    assert "deep/" + "q" * 255 in json.dumps(target)


# --- a stock helper ---------------------------------------------------------------------------------------------------


def test_stock_helper_refuses_what_it_cannot_list(lab: Lab, stock_alpine_image: str) -> None:
    """BusyBox tar takes a list of lines: a name that holds a newline would be two other names."""
    volume = lab.volume("stock-newline")
    (volume.files / "good").touch()
    (volume.files / "new\nline").touch()
    lab.protect(volume, helper=stock_alpine_image)
    result = lab.cli("backup", "--policy", lab.policy, "--json")
    assert result.code in (3, 15), result
    [target] = json.loads(result.stdout)["targets"]
    assert r"new\x0aline" in json.dumps(target).replace("\\\\", "\\")


# --- incremental ------------------------------------------------------------------------------------------------------


def test_second_backup_sees_every_kind_of_change(lab: Lab, settled_volume: Volume) -> None:
    lab.protect(settled_volume)
    first = lab.backup()
    change_everything(settled_volume.files)

    second = lab.backup()

    assert second["bytes_read"] < first["bytes_read"] / 2, "it read again what has not changed"
    assert_equal(settled_volume, lab.restore(settled_volume))


def change_everything(root: Path) -> None:
    """Each change that tempts an incremental capture to overlook it, with the old mtime wherever that hides more."""
    files, links, acls = root / "names" / "files", root / "links", root / "acls"
    (root / "order" / "a-b").rename(root / "order" / "z-last")
    (root / "order" / "a").rename(root / "order" / "m")  # every path below it
    (files / "CON").rename(files / "con")
    swap(root / "types" / "size-511", root / "types" / "size-513")
    swap(root / "types" / "same-1", root / "types" / "file")
    # Hard links: a new leader before the old one, the leader gone, one more, one less, a copy in the place of a link.
    (links / "0-first").hardlink_to(links / "z" / "made-first")
    (links / "a" / "deep" / "leader").unlink()
    (links / "many-extra").hardlink_to(links / "many-000")
    (links / "many-000").unlink()
    (links / "many-150").unlink()
    (root / "types" / "size-1-linked").hardlink_to(root / "types" / "size-1")
    with old_time(links / "empty-too"):
        (links / "empty-too").unlink()
        (links / "empty-too").touch()
    # One attribute and nothing else.
    os.setxattr(root / "types" / "size-4096", "user.only", b"xattr")
    os.setxattr(root / "xattrs" / "all", "user.text", b"VALUE")  # of the same length
    os.removexattr(root / "xattrs" / "directory", "user.empty")
    (root / "types" / "size-4095").chmod(0o4755)
    os.lchown(root / "symlinks" / "00", 12, 34)
    os.utime(root / "types" / "size-4097", ns=(0, 1))
    os.setxattr(acls / "file-0-7", ACCESS_ACL, named_acl(33, 34))
    os.removexattr(acls / "default", DEFAULT_ACL)
    os.setxattr(acls / "directory-0-7", DEFAULT_ACL, named_acl(1, 2))
    # Content of the same length under the same time.
    for path in (root / "types" / "size-10240", root / "sparse" / "hole-in-middle", links / "sparse"):
        with old_time(path), path.open("r+b") as file:
            file.write(b"changed")
    with old_time(root / "symlinks" / "self"):
        (root / "symlinks" / "self").unlink()
        (root / "symlinks" / "self").symlink_to("flse")
    # Sparse: filled, emptied, longer.
    (root / "sparse" / "only-hole").write_bytes(bytes(MIB))
    os.truncate(root / "sparse" / "many-extents", 0)
    os.truncate(root / "sparse" / "many-extents", 16 * MIB)
    os.truncate(root / "sparse" / "hole-at-end", 40 * MIB)
    # Types.
    with old_time(root / "types" / "size-512"):
        (root / "types" / "size-512").unlink()
        (root / "types" / "size-512").symlink_to("size-511")
    shutil.rmtree(root / "types" / "empty-directory")
    (root / "types" / "empty-directory").write_text("now a file")
    (root / "types" / "fifo").unlink()
    (root / "types" / "fifo").mkdir()
    (root / "types" / "fifo" / "inside").touch()
    (root / "types" / "empty").unlink()
    os.mkfifo(root / "types" / "empty")
    # Directories.
    shutil.rmtree(root / "names" / "directories")
    (root / "new" / "empty").mkdir(parents=True)
    (root / "many" / "file-000007").unlink()
    root.chmod(0o1777)
    os.chown(root, 5, 6)


def swap(one: Path, other: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in (one, other)}
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)
    for path, when in times.items():
        os.utime(path, ns=(when, when))


@contextmanager
def old_time(path: Path) -> Iterator[None]:
    """Put the modification time back afterwards."""
    when = path.lstat().st_mtime_ns
    yield
    os.utime(path, ns=(when, when), follow_symlinks=False)


def test_random_changes_come_back_round_after_round(lab: Lab, settled_volume: Volume, rng: random.Random) -> None:
    lab.protect(settled_volume)
    lab.backup()
    for number in range(ROUNDS):
        done = mutate_tree(settled_volume.files, rng, MUTATIONS_A_ROUND)
        lab.backup()
        restored = lab.restore(settled_volume)
        found = compare_trees(settled_volume.files, restored.files)
        assert not found, "\n".join((f"round {number}: {describe(found)}", "after", *done))
        lab.remove(restored)
