"""Capturing a directory: what tar says of single files, and what comes of it.

The host's own find and tar stand in for a helper's.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.process import HelperProcess
from drkit.errors import CaptureFailed
from drkit.events import Logged
from drkit.pipeline.capture import TORN_RETRIES, Capture, capture_directory
from drkit.pipeline.select import Patterns
from drkit.repository.format.snapshot import Target
from drkit.repository.reader import ChunkReader
from drkit.repository.writer import RunWriter
from tests.support.host_process import HostProcess
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import create

HELPER = HelperImage("sha256:0", "host", "1.34", "amd64", full=True)
MUCH_LATER = 1e12
"""A clock by which every file is settled."""
TORN_B = b"tar: ./b: file changed as we read it\n"


class Foreground:
    """An engine of which a capture asks nothing more."""

    def in_background(self, work: Callable[[], None]) -> None:
        work()


class Counting(Logged):
    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def progress(self, task: str, count: int) -> None:
        self.counts[task] = self.counts.get(task, 0) + count


class Captures:
    """Captures one directory into one repository. `trees` are the tree chunks that the last one put."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._repository, identity = create(MemoryStorage())
        self._recipients = [identity.recipient]
        self.events = Counting()
        self.trees: list[str] = []

    def helper(
        self, said: bytes = b"", code: int = 0, found: int = 0, kind: str | None = None
    ) -> Callable[[], HostProcess]:
        return lambda: HostProcess(self.root, said, code, found, kind=kind)

    def run(
        self, *helpers: Callable[[], HostProcess], previous: Target | None = None, exclude: Sequence[str] = ()
    ) -> Target:
        """Capture with these helpers, each of which must be used."""
        target = Target("volume", "x")
        left = list(helpers)
        self.trees = []

        def start() -> HelperProcess:
            return cast("HelperProcess", left.pop(0)())

        with (
            RunWriter(self._repository, os.urandom(8).hex(), self._recipients, host="h") as writer,
            ChunkReader(self._repository) as reader,
        ):
            put = writer.put_tree

            def put_tree(data: bytes) -> bytes:
                self.trees.append(put(data).hex())
                return bytes.fromhex(self.trees[-1])

            writer.put_tree = put_tree  # type: ignore[method-assign]
            engine = cast("Engine", Foreground())
            capture = Capture(engine, self._repository, reader, writer, target, MUCH_LATER, self.events, bytes(32))
            capture_directory(capture, HELPER, start, start, Patterns(exclude), previous)
            writer.keep()
        assert not left
        self._repository.reload_index()
        return target

    def content(self, target: Target) -> dict[bytes, bytes]:
        with ChunkReader(self._repository) as reader:
            return {member.path: b"".join(reader.extents([member])) for member in reader.members(target)}


@pytest.fixture
def captures(tmp_path: Path) -> Captures:
    root = tmp_path / "root"
    (root / "c").mkdir(parents=True)
    for name in ("a", "b", "c/d"):
        (root / name).write_bytes(name.encode() * 1000)
    return Captures(root)


def test_a_first_capture_and_an_unchanged_one(captures: Captures) -> None:
    first = captures.run(captures.helper())
    content = captures.content(first)
    assert list(content) == [b"", b"a", b"b", b"c", b"c/d"]
    assert b"c/d" * 1000 in content[b"c/d"]
    assert (first.files, first.bytes, first.encoding) == (5, 5000, "1.34, full")
    assert first.tree == captures.trees
    assert first.aligned
    assert captures.events.counts == {"volume x": first.bytes_read}

    second = captures.run(captures.helper(), previous=first)
    assert (second.tree, second.files, second.bytes, second.bytes_read) == (first.tree, 5, 5000, 0)
    assert second.aligned
    assert captures.trees == []
    old = dataclasses.replace(first, aligned=False)
    assert not captures.run(captures.helper(), previous=old).aligned, "a tree that was cut anywhere was taken over"


def test_only_what_changed_is_read(captures: Captures) -> None:
    first = captures.run(captures.helper())
    (captures.root / "a").write_bytes(b"changed")
    (captures.root / "c" / "d").unlink()
    second = captures.run(captures.helper(), previous=first)
    content = captures.content(second)
    assert list(content) == [b"", b"a", b"b", b"c"]
    assert b"changed" in content[b"a"]
    assert second.tree == captures.trees


def test_a_torn_file_that_heals_is_as_it_was_read_last(captures: Captures) -> None:
    def later() -> HostProcess:
        (captures.root / "b").write_bytes(b"healed")
        return captures.helper()()

    target = captures.run(captures.helper(TORN_B, code=1), later)

    assert target.torn.count == 0
    content = captures.content(target)
    assert list(content) == [b"", b"a", b"b", b"c", b"c/d"]
    assert b"healed" in content[b"b"]
    assert (target.files, target.bytes) == (5, 4006)
    assert target.tree == captures.trees, "a tree was made that no snapshot refers to"


def test_a_file_that_stays_torn_is_listed(captures: Captures) -> None:
    target = captures.run(*[captures.helper(TORN_B, code=1)] * (1 + TORN_RETRIES))
    assert target.torn.names == ["b"]
    assert list(captures.content(target)) == [b"", b"a", b"b", b"c", b"c/d"]
    assert target.tree == captures.trees


@pytest.mark.parametrize("said", [b"tar: something new\n", b"tar: ./b: Cannot open: Input/output error\n"])
def test_a_message_that_nobody_knows_fails_the_capture(captures: Captures, said: bytes) -> None:
    with pytest.raises(CaptureFailed, match=r"^volume x: tar: "):
        captures.run(captures.helper(said, code=2))


# --- file systems -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4", "xfs", "btrfs", "zfs"])
def test_equal_times_prove_equal_content_on_a_disk_of_this_host(captures: Captures, kind: str) -> None:
    first = captures.run(captures.helper(kind=kind))
    assert captures.run(captures.helper(kind=kind), previous=first).bytes_read == 0


@pytest.mark.parametrize(
    "kind",
    ["tmpfs", "ramfs", "fuse", "fuse.ext4", "fuseblk", "nfs", "nfs4", "cifs", "9p", "virtiofs", "overlay", "ext4dev"],
)
def test_nothing_is_taken_over_from_where_times_prove_nothing(captures: Captures, kind: str) -> None:
    first = captures.run(captures.helper(kind=kind))
    assert captures.run(captures.helper(kind=kind), previous=first).bytes_read == first.bytes_read > 0
    assert captures.run(captures.helper(kind="ext4"), previous=first).bytes_read == first.bytes_read


def test_nothing_is_taken_over_from_a_record_that_tells_no_file_system(captures: Captures) -> None:
    first = captures.run(captures.helper(kind="ext4"))
    old = dataclasses.replace(first, filesystem=None)
    assert captures.run(captures.helper(kind="ext4"), previous=old).bytes_read == first.bytes_read > 0


def test_what_lies_on_a_mount_below_is_judged_by_that_mount(captures: Captures) -> None:
    (captures.root / "a").write_bytes(os.urandom(2 << 20))
    first = captures.run(captures.helper(kind="ext4"))
    mounted = "ext4 /dev/x\n2 1 0:5 / /volume/c rw - fuse.x"
    second = captures.run(captures.helper(kind=mounted), previous=first)
    assert list(captures.content(second)) == list(captures.content(first))
    assert 0 < second.bytes_read < 1 << 20 < first.bytes_read
    third = captures.run(captures.helper(kind=mounted), previous=second)
    assert (third.bytes_read, third.tree) == (second.bytes_read, second.tree)
    # Nor does it prove anything once it is part of the volume's own file system again.
    assert captures.run(captures.helper(kind="ext4"), previous=third).bytes_read == second.bytes_read


def test_a_store_through_a_mapping_is_seen_in_memory(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as shm:
        assert _type_of(Path(shm)) == "tmpfs"
        captures = Captures(Path(shm))
        file = captures.root / "database"
        file.write_bytes(b"a" * 10_000)
        with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
            mapped[0:1] = b"a"
            first = captures.run(captures.helper())
            before = file.stat()
            mapped[5:8] = b"new"
            after = file.stat()
        assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns), "no test of anything"
        second = captures.run(captures.helper(), previous=first)
        assert b"new" in captures.content(second)[b"database"]


def test_holes_and_links_in_memory_stay_what_they_are() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as shm:
        captures = Captures(Path(shm))
        with (captures.root / "hole").open("wb") as file:
            file.truncate(1 << 40)
        (captures.root / "link").hardlink_to(captures.root / "hole")
        target = captures.run(captures.helper())
        assert target.bytes == 1 << 40
        assert target.bytes_read < 1 << 20
        assert target.lost == []
        assert _leaders(captures, target) == {b"link": b"hole"}


def test_a_size_that_tar_did_not_meet_proves_nothing(captures: Captures) -> None:
    """It grew between scan and tar. Whatever the next scan tells, it is read again."""

    class Growing(HostProcess):
        def write(self, data: bytes) -> None:
            (captures.root / "a").write_bytes(b"grown" * 1000)
            super().write(data)

    target = captures.run(lambda: Growing(captures.root, kind="ext4"))
    with ChunkReader(captures._repository) as reader:
        settled = {member.path: member.settled for member in reader.members(target)}
    assert settled == {b"": True, b"a": False, b"b": True, b"c": True, b"c/d": True}


def test_a_find_that_died_fails_the_capture(captures: Captures) -> None:
    with pytest.raises(CaptureFailed, match="find failed with status 137"):
        captures.run(captures.helper(found=137))
    with pytest.raises(CaptureFailed, match="did not say why"):
        captures.run(captures.helper(found=1))


def _type_of(path: Path) -> str:
    return subprocess.run(
        ["stat", "--file-system", "--format=%T", path], check=True, capture_output=True, text=True
    ).stdout.strip()


def _leaders(captures: Captures, target: Target) -> dict[bytes, bytes]:
    with ChunkReader(captures._repository) as reader:
        return {member.path: member.leader for member in reader.members(target) if member.leader}


# --- what find met ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"find: './c': Permission denied\n",
        b"find: ./c: Permission denied\n",
        b"find: './c/x\\ny': Input/output error\n",
        b"find: File system loop detected; './c/loop' is part of the same file system loop as './c'.\n",
    ],
)
def test_what_find_met_in_an_excluded_directory_does_not_count(captures: Captures, said: bytes) -> None:
    target = captures.run(captures.helper(said, found=1), exclude=["c/"])
    assert list(captures.content(target)) == [b"", b"a", b"b"]
    with pytest.raises(CaptureFailed):
        captures.run(captures.helper(said, found=1), exclude=["/b"])
    with pytest.raises(CaptureFailed):
        captures.run(captures.helper(said + b"find: './d': Permission denied\n", found=1), exclude=["c/"])


def test_what_cannot_be_seen_is_a_directory_only_if_it_is_known_for_one(captures: Captures) -> None:
    said = b"find: './m': Permission denied\n"
    with pytest.raises(CaptureFailed, match="/m'"):
        captures.run(captures.helper(said, found=1), exclude=["m/"])
    mounted = "ext4 /dev/x\n2 1 0:5 / /volume/m rw - fuse.x"
    captures.run(captures.helper(said, found=1, kind=mounted), exclude=["m/"])
    captures.run(captures.helper(said, found=1), exclude=["m"])


def test_what_find_met_is_judged_though_nothing_changed(captures: Captures) -> None:
    first = captures.run(captures.helper())
    gone = captures.run(captures.helper(b"find: './e': No such file or directory\n", found=1), previous=first)
    assert list(captures.content(gone)) == list(captures.content(first))
    assert gone.bytes_read > 0
    with pytest.raises(CaptureFailed, match="Permission denied"):
        captures.run(captures.helper(b"find: './e': Permission denied\n", found=1), previous=first)
