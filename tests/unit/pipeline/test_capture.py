"""Capturing a directory: what tar says of single files, and what comes of it.

The host's own find and tar stand in for a helper's.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.process import HelperProcess
from drkit.errors import CaptureFailed
from drkit.events import Logged
from drkit.pipeline.capture import capture_directory
from drkit.pipeline.rescan import RESCANS
from drkit.pipeline.select import Patterns
from drkit.pipeline.tar_capture import Capture
from drkit.repository.format.kinds import Status
from drkit.repository.format.snapshot import Target
from drkit.repository.reader import ChunkReader
from drkit.repository.writer import RunWriter
from tests.support.host_process import HostProcess
from tests.support.host_tar import extract_tar
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
    target = captures.run(*[captures.helper(TORN_B, code=1)] * (1 + RESCANS))
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
    # Looked for again: something else may have been renamed to what find did not come to any more.
    met = captures.helper(b"find: './e': No such file or directory\n", found=1)
    gone = captures.run(met, captures.helper(), previous=first)
    assert (gone.status, gone.vanished.names) == (Status.OK, ["e"])
    assert list(captures.content(gone)) == list(captures.content(first))
    assert gone.bytes_read > 0
    with pytest.raises(CaptureFailed, match="Permission denied"):
        captures.run(captures.helper(b"find: './e': Permission denied\n", found=1), previous=first)


# --- names that change while the directory is read --------------------------------------------------------------------


class Meddled(HostProcess):
    """Runs `change` between the scan and the reading, and says what find and tar really said."""

    def __init__(self, root: Path, change: Callable[[], object]) -> None:
        super().__init__(root, said=None)
        self._change: Callable[[], object] | None = change

    def write(self, data: bytes) -> None:
        if self._change is not None:
            self._change()
            self._change = None
        super().write(data)


def nothing() -> None:
    pass


@pytest.fixture
def media(tmp_path: Path) -> Captures:
    """Directories of some hundred files, with hard links across them."""
    root = tmp_path / "media"
    for number in range(300):
        path = root / f"old{number % 3}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 50)
    os.link(root / "old1" / "file1", root / "z-link")
    os.link(root / "old0" / "file3", root / "old1" / "a-link")
    (root / "symlink").symlink_to("old1/file1")
    return Captures(root)


def on_disk(root: Path) -> dict[bytes, bytes]:
    """What a capture of a quiet directory gives, as it must be afterwards: paths, with the bytes of each file."""
    found = {b"": b""}
    for path in sorted(root.rglob("*")):
        name = bytes(path.relative_to(root))
        found[name] = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    return found


def assert_whole(captures: Captures, target: Target) -> None:
    """The tree must restore to what is on the disk: tar itself extracts it."""
    out = captures.root.parent / "out"
    archive = b"".join(captures.content(target).values()) + bytes(1024)
    extract_tar(archive, out)
    assert on_disk(out) == on_disk(captures.root)
    assert target.files == len(on_disk(out))
    inodes = {path: (captures.root / path).stat().st_ino for path in ("z-link", "old1/a-link") if (out / path).exists()}
    for path, inode in inodes.items():
        twins = [each for each in captures.root.rglob("*") if not each.is_symlink() and each.stat().st_ino == inode]
        numbers = {(out / each.relative_to(captures.root)).stat().st_ino for each in twins}
        assert len(numbers) == 1, f"{path} and its links are several files after a restore"
    shutil.rmtree(out)


def test_a_directory_renamed_while_it_is_read_comes_under_its_new_name(media: Captures) -> None:
    root = media.root
    target = media.run(
        lambda: Meddled(root, lambda: (root / "old1").rename(root / "new")), lambda: Meddled(root, nothing)
    )
    assert (target.status, target.vanished.count) == (Status.OK, 0), target.error
    assert b"new/file1" in media.content(target)
    assert b"old1/file1" not in media.content(target)
    assert_whole(media, target)


def test_the_directory_that_holds_the_content_of_a_hard_link_is_renamed(media: Captures) -> None:
    """old1/a-link was captured as a link to old0/file3, whose name is then gone: a restore could not make it."""
    root = media.root
    target = media.run(
        lambda: Meddled(root, lambda: (root / "old0").rename(root / "zz")), lambda: Meddled(root, nothing)
    )
    assert target.status == Status.OK, target.error
    assert_whole(media, target)


def test_a_directory_renamed_twice_is_found_by_the_second_rescan(media: Captures) -> None:
    root = media.root
    target = media.run(
        lambda: Meddled(root, lambda: (root / "old1").rename(root / "one")),
        lambda: Meddled(root, lambda: (root / "one").rename(root / "two")),
        lambda: Meddled(root, nothing),
    )
    assert (target.status, target.vanished.count) == (Status.OK, 0), target.error
    assert_whole(media, target)


def test_a_directory_that_is_renamed_all_the_time_makes_the_target_partial(media: Captures) -> None:
    root, names = media.root, ["one", "two", "three", "four"]
    current = ["old1"]

    def rename() -> None:
        new = names.pop(0)
        (root / current[0]).rename(root / new)
        current[0] = new

    target = media.run(*[lambda: Meddled(root, rename)] * (1 + RESCANS))
    assert target.status == Status.PARTIAL
    assert target.error is not None and "vanished while it was read and did not come back, old1" in target.error
    assert target.vanished.count >= 100
    assert b"old2/file2" in media.content(target)


def test_a_directory_that_is_moved_away_makes_the_target_partial(media: Captures) -> None:
    root = media.root
    target = media.run(
        lambda: Meddled(root, lambda: (root / "old1").rename(root.parent / "elsewhere")),
        *[lambda: Meddled(root, nothing)],
    )
    assert target.status == Status.PARTIAL
    assert target.error is not None and "old1" in target.error
    assert_whole(media, target)


def test_files_that_vanish_one_by_one_are_named_and_no_more(media: Captures) -> None:
    root = media.root
    gone = [root / "old1" / f"file{number}" for number in (4, 7, 10)]
    target = media.run(lambda: Meddled(root, lambda: [path.unlink() for path in gone]), lambda: Meddled(root, nothing))
    assert (target.status, target.vanished.names) == (Status.OK, ["old1/file10", "old1/file4", "old1/file7"])
    assert_whole(media, target)


def test_a_file_that_is_renamed_comes_under_its_new_name(media: Captures) -> None:
    root = media.root
    target = media.run(
        lambda: Meddled(root, lambda: (root / "old1" / "file1").rename(root / "a-new")), lambda: Meddled(root, nothing)
    )
    assert (target.status, target.vanished.count) == (Status.OK, 0)
    assert_whole(media, target)


def test_two_directories_that_change_places_are_read_as_they_stand_at_the_end(media: Captures) -> None:
    """Both names are there all the time, and the one file that vanished tells of it."""
    root = media.root
    (root / "old0" / "only-here").write_bytes(b"x")

    def swap() -> None:
        (root / "old0").rename(root / "between")
        (root / "old1").rename(root / "old0")
        (root / "between").rename(root / "old1")

    target = media.run(lambda: Meddled(root, swap), lambda: Meddled(root, nothing))
    assert (target.status, target.vanished.count) == (Status.OK, 0), target.error
    assert_whole(media, target)


def test_a_file_in_the_place_of_a_directory(media: Captures) -> None:
    root = media.root

    def replace() -> None:
        (root / "old1").rename(root / "new")
        (root / "old1").write_bytes(b"a file now")

    target = media.run(lambda: Meddled(root, replace), lambda: Meddled(root, nothing))
    assert target.status == Status.OK, target.error
    assert_whole(media, target)


def test_what_was_taken_over_from_an_earlier_snapshot_follows_a_rename(media: Captures) -> None:
    root = media.root
    first = media.run(media.helper())
    for number in range(1, 90, 3):
        (root / "old1" / f"file{number}").write_bytes(b"changed")
    target = media.run(
        lambda: Meddled(root, lambda: (root / "old1").rename(root / "new")),
        lambda: Meddled(root, nothing),
        previous=first,
    )
    assert target.status == Status.OK, target.error
    assert_whole(media, target)


def test_another_volume_mounted_in_its_place_fails_the_capture(media: Captures, tmp_path: Path) -> None:
    """A volume in memory is empty once its last user has gone: a second helper gets a new one."""
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(CaptureFailed, match="something else was mounted there"):
        media.run(lambda: Meddled(media.root, (media.root / "old1" / "file1").unlink), lambda: Meddled(other, nothing))


@pytest.mark.parametrize("size", [3000])
def test_a_thread_renames_a_large_directory_while_it_is_read(tmp_path: Path, size: int) -> None:
    root = tmp_path / "large"
    (root / "big").mkdir(parents=True)
    for number in range(size):
        (root / "big" / f"{number:05}").write_bytes(b"x" * 2000)
    (root / "a").write_bytes(b"a")
    captures = Captures(root)
    renamed = threading.Event()

    class Watched(HostProcess):
        """Has a thread rename the directory as soon as the first bytes of the tar have come."""

        def __init__(self) -> None:
            super().__init__(root, said=None)
            self.reading = False

        def write(self, data: bytes) -> None:
            super().write(data)
            self.reading = True

        def readinto(self, buffer: memoryview) -> int:
            count = super().readinto(buffer)
            if self.reading and not renamed.is_set():
                thread = threading.Thread(target=(root / "big").rename, args=[root / "renamed"])
                thread.start()
                thread.join()
                renamed.set()
            return count

    target = captures.run(Watched, Watched)
    assert (target.status, target.files, target.vanished.count) == (Status.OK, size + 3, 0), target.error
    assert_whole(captures, target)
