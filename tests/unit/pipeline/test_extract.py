"""What a verification says of restored files: the host's own programs stand in for a helper."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from drkit.engine.helper.process import HelperProcess
from drkit.errors import IntegrityError
from drkit.events import Collected
from drkit.pipeline.extract import Restore, Verified, verifier
from drkit.repository.format.snapshot import Target
from drkit.repository.reader import ChunkReader
from drkit.repository.writer import RunWriter
from tests.support.host_process import HostProcess
from tests.support.host_tar import capture_directory
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import create

MIB = 1 << 20

Verify = Callable[[], Verified]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    with (root / "sparse").open("wb") as file:
        file.seek(3 * MIB)
        file.write(b"island" * 1000)
        file.truncate(8 * MIB)
    (root / "plain").write_bytes(b"x" * 1000)
    return root


@pytest.fixture
def events() -> Collected:
    return Collected()


@pytest.fixture
def verify(root: Path, events: Collected) -> Verify:
    """Verifies the directory, whatever was done to it since, against a snapshot of what it held first."""
    repository, identity = create(MemoryStorage())
    target = Target("volume", "x")
    with RunWriter(repository, os.urandom(8).hex(), [identity.recipient], host="h") as writer:
        capture_directory(repository, writer, target, root)
        writer.keep()
    repository.reload_index()

    def start(*, sampled: bool = False) -> HelperProcess:
        return cast("HelperProcess", HostProcess(root, sampled=sampled, held=True, kind="ext4"))

    def run() -> Verified:
        with ChunkReader(repository) as reader:
            key = repository.meta.member
            restore = Restore(
                "volume x", start, lambda: start(sampled=True), start, True, 1, reader, key, target, None, events
            )
            with verifier(restore) as verified:
                return verified()

    return run


def rewrite(path: Path, content: bytes) -> None:
    """Give a file another content and the times that it had."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    parent = path.parent.stat()
    os.utime(path.parent, ns=(parent.st_atime_ns, parent.st_mtime_ns))


def test_what_is_as_recorded(verify: Verify, events: Collected) -> None:
    assert verify().members == 3
    assert not events.warnings


def test_holes_that_were_filled_are_told(verify: Verify, root: Path, events: Collected) -> None:
    rewrite(root / "sparse", (root / "sparse").read_bytes())
    assert (root / "sparse").stat().st_blocks * 512 >= 8 * MIB, "no test of anything"
    assert verify().members == 3
    [warned] = events.warnings
    assert "volume x: 1 file came back with holes filled, and takes 7 MiB more" in warned.message


def test_holes_that_came_back_elsewhere_are_no_difference(verify: Verify, root: Path, events: Collected) -> None:
    """Content of zeros may become a hole, and the edge of a hole may move by a block."""
    content = (root / "sparse").read_bytes()
    times = (root / "sparse").stat()
    with (root / "sparse").open("r+b") as file:
        file.seek(3 * MIB - 4096)
        file.write(content[3 * MIB - 4096 : 3 * MIB])
    os.utime(root / "sparse", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert verify().members == 3
    assert not events.warnings


@pytest.mark.parametrize("at", [0, 3 * MIB, 8 * MIB - 1])
def test_another_content_is_a_difference(verify: Verify, root: Path, at: int) -> None:
    content = bytearray((root / "sparse").read_bytes())
    content[at] ^= 1
    rewrite(root / "sparse", bytes(content))
    with pytest.raises(IntegrityError, match=r"sparse \(content\)"):
        verify()


def test_a_file_that_is_missing_is_named(verify: Verify, root: Path) -> None:
    shutil.move(root / "plain", root.parent / "plain")
    with pytest.raises(IntegrityError, match="plain is missing"):
        verify()
