"""A file system that tells no blocks, equal inode numbers and times that never move, which real ones do.

Beside what drkit does on it, these tests show that the file system really deceives tar.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from drkit.engine.helper.process import HelperProcess
from drkit.errors import IntegrityError
from drkit.events import Logged
from drkit.pipeline.extract import Restore, Verified, verifier
from drkit.repository.format.snapshot import Target
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from tests.support.fuse import Node, mounted_fuse
from tests.support.host_process import HostProcess
from tests.support.host_tar import capture_directory, create_tar
from tests.support.lab import Lab
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import create

MIB = 1 << 20


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    point = tmp_path / "fuse"
    point.mkdir()
    yield point
    assert not point.is_mount()


def test_a_backup_holds_what_reading_gives(lab: Lab, mount: Path) -> None:
    dense, islands = os.urandom(3 * MIB), bytes(MIB) + os.urandom(MIB) + bytes(2 * MIB)
    files = {
        "no-blocks": Node(dense),
        "directory/some-blocks": Node(islands, blocks=8),
        "one": Node(b"first!", blocks=8, inode=77, links=2),
        "two": Node(b"second", blocks=8, inode=77, links=2),
        "still": Node(b"before", blocks=8),
    }
    with mounted_fuse(mount, files):
        believed = create_tar(mount, [b"no-blocks", b"one", b"two"])
        assert dense[:1000] not in believed and b"first" in believed and b"second" not in believed
        volume = lab.volume("fuse", driver_opts={"type": "none", "o": "bind", "device": str(mount)})
        lab.init(volume)
        lab.backup()
        files["still"].content = b"after!"  # of the same size, and no time moves
        report = lab.json("backup")
        name = lab.forget_later(f"{volume.name}-restored")
        restored = lab.drkit("restore", "latest", "--volume", volume.name, "--to-volume", name)
        lab.remove(volume)

    assert report["targets"][0]["bytes_read"] > 4 * MIB
    assert restored.code == 0, restored.stderr
    assert "hard links where the file system's inode numbers prove nothing" in restored.stderr
    assert "5 files by a second program too (seed " in restored.stdout
    root = lab.find(name).files
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert found == {
        "no-blocks": dense,
        "directory/some-blocks": islands,
        "one": b"first!",
        "two": b"second",
        "still": b"after!",
    }
    assert (root / "directory/some-blocks").stat().st_blocks * 512 < 2 * MIB, "its holes were filled"


def test_a_stock_helper_says_what_it_cannot_tell_apart(lab: Lab, mount: Path, stock_alpine_image: str) -> None:
    files = {"one": Node(b"first!", 8, inode=77, links=2), "two": Node(b"second", 8, inode=77, links=2)}
    with mounted_fuse(mount, files):
        volume = lab.volume("fuse", driver_opts={"type": "none", "o": "bind", "device": str(mount)})
        lab.init(volume, helper={"image": stock_alpine_image})
        result = lab.drkit("backup")
        lab.remove(volume)
    assert "1 file may be missing, two among them" in result.stderr
    assert "hint: Remove helper.image from the policy" in result.stderr


def test_a_sample_finds_what_tar_is_deceived_about(tmp_path: Path, mount: Path) -> None:
    """The recorded file is one hole, and tar finds one hole again, but reading gives data."""
    original = tmp_path / "original"
    original.mkdir()
    with (original / "file").open("wb") as file:
        file.truncate(3 * MIB)
    for path in (original / "file", original):
        os.utime(path, ns=(0, 1_500_000_000 * 10**9))
    repository, identity = create(MemoryStorage())
    target = Target("volume", "x")
    with RunWriter(repository, os.urandom(8).hex(), [identity.recipient], host="h") as writer:
        capture_directory(repository, writer, target, original)
        writer.keep()
    repository.reload_index()

    assert verified(repository, target, original) == Verified(2, 524288, 1)
    with mounted_fuse(mount, {"file": Node(os.urandom(3 * MIB))}), pytest.raises(IntegrityError) as raised:
        verified(repository, target, mount)
    assert raised.value.message == "volume x: file reads differently from what tar found in it"


def verified(repository: Repository, target: Target, root: Path) -> Verified:
    def helper(*, sampled: bool = False) -> HelperProcess:
        return cast("HelperProcess", HostProcess(root, kind="ext4", sampled=sampled, held=True))

    with ChunkReader(repository) as reader:
        key = repository.meta.member
        start_sampled = partial(helper, sampled=True)
        restore = Restore("volume x", helper, start_sampled, helper, True, 1, reader, key, target, None, Logged())
        with verifier(restore) as verify:
            return verify()
