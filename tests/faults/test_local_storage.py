"""A local storage on real file systems that are full, read-only, unreadable or gone, and in processes that die."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drkit.errors import AccessDenied, DrkitError, IntegrityError, ObjectExists, StorageFull, StorageUnavailable
from drkit.storage import open_storage
from drkit.storage.base import MAX_OBJECT
from drkit.storage.local import files
from drkit.storage.local.directory import LocalStorage, explain

MIB = 1 << 20


def open_local(path: Path, *, create: bool = True) -> LocalStorage:
    storage = open_storage(str(path), create=create)
    assert isinstance(storage, LocalStorage)
    return storage


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return open_local(tmp_path / "repository")


def keys(storage: LocalStorage, prefix: str = "") -> list[str]:
    return [info.key for info in storage.list(prefix)]


def debris(storage: LocalStorage) -> list[str]:
    return [path.name for path in storage.root.glob("tmp/*")]


@contextlib.contextmanager
def mounted(target: Path, options: str) -> Iterator[Path]:
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "drkit-test", str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)


def test_no_space(tmp_path: Path) -> None:
    with mounted(tmp_path / "full", "size=1M") as full:
        storage = open_local(full / "repository")
        storage.put("packs/aa/fits", bytes(512 << 10))
        with pytest.raises(
            StorageFull, match=r"cannot store .*/packs/aa/large: no space left on device \(ENOSPC\)"
        ) as e:
            storage.put("packs/aa/large", bytes(MIB))
        assert e.value.exit_code == 13
        assert e.value.hint is not None
        assert "df -h" in e.value.hint
        assert keys(storage) == ["packs/aa/fits"]
        assert debris(storage) == []
        # What is there can still be read and deleted, and then there is room again.
        assert storage.get("packs/aa/fits") == bytes(512 << 10)
        storage.delete("packs/aa/fits")
        storage.put("packs/aa/again", bytes(512 << 10))


def test_delete_needs_no_space(tmp_path: Path) -> None:
    with mounted(tmp_path / "full", "size=1M") as full:
        storage = open_local(full)
        with pytest.raises(StorageFull):
            for number in range(1000):
                storage.put(f"packs/{number}", bytes(100_000))
        (full / "filler").write_bytes(b"")
        with pytest.raises(OSError, match="No space"), (full / "filler").open("wb") as filler:
            while True:
                filler.write(bytes(4096))
                filler.flush()
        for key in keys(storage, "packs/"):
            storage.delete(key)
        assert keys(storage, "packs/") == []


def test_no_inodes(tmp_path: Path) -> None:
    with mounted(tmp_path / "full", "size=1M,nr_inodes=10") as full:
        storage = open_local(full)
        stored = []
        with pytest.raises(StorageFull, match=r"ENOSPC") as caught:
            for number in range(100):
                storage.put(f"keys/{number}", b"x")
                stored.append(f"keys/{number}")
        assert stored
        assert caught.value.hint is not None
        assert "df -i" in caught.value.hint
        assert keys(storage) == sorted(stored)
        assert debris(storage) == []


def test_no_inode_for_a_new_directory(tmp_path: Path) -> None:
    """The temporary file is written by then; it must go again."""
    with mounted(tmp_path / "full", "size=1M,nr_inodes=4") as full:  # the root, tmp, the temporary file, packs
        storage = open_local(full)
        with pytest.raises(StorageFull):
            storage.put("packs/aa/object", b"x")
        assert keys(storage) == []
        assert debris(storage) == []


def test_a_file_system_that_becomes_read_only(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=4M") as disk:
        storage = open_local(disk / "repository")
        storage.put("config", b"x")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(AccessDenied, match=r"cannot store .*/packs/one: read-only file system \(EROFS\)") as e:
            storage.put("packs/one", b"y")
        assert e.value.exit_code == 12
        with pytest.raises(AccessDenied, match=r"cannot delete .*/config: read-only file system"):
            storage.delete("config")
        with pytest.raises(AccessDenied, match="EROFS"):
            open_storage(str(disk / "other"), create=True)
        reopened = open_local(disk / "repository", create=False)
        assert reopened.get("config") == b"x"
        assert keys(reopened) == ["config"]


def test_a_file_system_unmounted_in_the_middle_is_not_an_empty_repository(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=4M") as disk:
        storage = open_local(disk)
        storage.put("packs/aa/one", b"x")
        listing = storage.list("")
        assert next(listing).key == "packs/aa/one"
        with mounted(tmp_path / "elsewhere", "size=1M"):
            subprocess.run(["mount", "--move", str(disk), str(tmp_path / "elsewhere")], check=True)
            try:
                for attempt in (
                    lambda: list(listing),
                    lambda: list(storage.list("")),
                    lambda: list(storage.list("packs/")),
                    lambda: storage.get("packs/aa/one"),
                    lambda: storage.stat("packs/aa/one"),
                    lambda: storage.put("packs/aa/two", b"y"),
                    lambda: storage.delete("packs/aa/one"),
                ):
                    with pytest.raises(StorageUnavailable, match="is gone or another one took its place"):
                        attempt()
                assert list(disk.iterdir()) == [], "something was written below the mount point"
            finally:
                subprocess.run(["mount", "--move", str(tmp_path / "elsewhere"), str(disk)], check=True)
        assert storage.get("packs/aa/one") == b"x"


def test_a_removed_repository_is_not_an_empty_one(storage: LocalStorage) -> None:
    storage.put("config", b"x")
    storage.root.rename(storage.root.with_name("renamed"))
    with pytest.raises(StorageUnavailable, match="is gone"):
        keys(storage)
    with pytest.raises(StorageUnavailable, match="is gone"):
        storage.get("config")
    with pytest.raises(DrkitError, match="repository"):
        storage.put("other", b"x")
    with pytest.raises(StorageUnavailable, match="is gone"):
        storage.delete("config")
    assert not storage.root.exists()


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that other users can get to, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="drkit-test-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@contextlib.contextmanager
def as_user(user: int) -> Iterator[None]:
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)


def test_directories_that_another_user_cannot_read_raise(reachable: Path) -> None:
    storage = open_local(reachable / "repository")
    storage.put("packs/aa/one", b"x")
    storage.root.chmod(0o755)  # so the root can be read, and what is below cannot
    (storage.root / "packs").chmod(0o700)
    with as_user(65534):
        for prefix in ("", "packs/", "packs/aa"):
            with pytest.raises(AccessDenied, match=r"cannot list .*/packs.*: permission denied \(EACCES\)"):
                keys(storage, prefix)
        with pytest.raises(AccessDenied, match=r"cannot read .*/packs/aa/one: permission denied"):
            storage.get("packs/aa/one")
        with pytest.raises(AccessDenied, match="EACCES"):
            storage.stat("packs/aa/one")
        with pytest.raises(AccessDenied, match="EACCES"):
            storage.put("marks/one", b"x")
        with pytest.raises(AccessDenied, match="EACCES"):
            storage.delete("packs/aa/one")
    storage.root.chmod(0o700)
    with as_user(65534), pytest.raises(AccessDenied, match=r"cannot open .*/repository: permission denied"):
        open_storage(str(storage.root))
    assert keys(storage) == ["packs/aa/one"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_modes_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        storage = open_local(tmp_path / "new/repository")
        storage.put("packs/aa/one", b"x")
    finally:
        os.umask(before)
    found = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*")
    }
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert found == {
        "new/repository": 0o700,
        "new/repository/tmp": 0o700,
        "new/repository/packs": 0o700,
        "new/repository/packs/aa": 0o700,
        "new/repository/packs/aa/one": 0o400,
    }


@pytest.mark.parametrize(
    ("mode", "owner", "problem"),
    [
        (0o700, 0, None),
        (0o755, 0, None),
        (0o770, 0, "writable by group 0 (mode 0770)"),
        (0o1777, 0, "writable by every user (mode 1777)"),
        (0o700, 12345, "belongs to user 12345"),
    ],
)
def test_permission_problem(storage: LocalStorage, mode: int, owner: int, problem: str | None) -> None:
    storage.root.chmod(mode)
    os.chown(storage.root, owner, 0)
    said = storage.permission_problem()
    if problem is None:
        assert said is None
    else:
        assert said is not None
        assert problem in said
        assert str(storage.root) in said


# The child stores an object over and over and reports each one that is acknowledged.
WRITER = """
import sys
from drkit.storage import open_storage
storage = open_storage(sys.argv[1], create=True)
data = bytes(8 << 20)
for number in range(1_000_000):
    storage.put(f"packs/{number:06}", data)
    storage.delete(f"packs/{number - 1:06}") if number else None
    print(number, flush=True)
"""


def run_python(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE)


@pytest.mark.parametrize("attempt", range(8))
def test_a_killed_writer_leaves_only_whole_objects_and_debris_that_goes(tmp_path: Path, attempt: int) -> None:
    root = tmp_path / "repository"
    with run_python(WRITER, str(root)) as writer:
        assert writer.stdout is not None
        for _ in range(3 + attempt):
            acknowledged = int(writer.stdout.readline())
        # Wait for a temporary file, so that the signal hits a put in its middle.
        while not list(root.glob("tmp/*")):
            pass
        writer.kill()
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
    assert writer.returncode == -signal.SIGKILL
    storage = open_local(root, create=False)
    for info in storage.list(""):
        assert info.size == 8 << 20, "a half-written object is visible"
        assert storage.get(info.key) == bytes(8 << 20)
    assert f"packs/{acknowledged:06}" in keys(storage)
    storage.put("config", b"x")
    storage.put("next", b"x")
    assert debris(storage) == []


def test_the_middle_of_a_put_is_invisible_and_its_debris_goes_with_the_next_writer(tmp_path: Path) -> None:
    """As above, but stopped at a known place: just before the data is synced."""
    script = """
import os, signal, sys
import drkit.storage.local.files
from drkit.storage import open_storage
os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
open_storage(sys.argv[1]).put("packs/aa/one", b"x" * 100)
"""
    storage = open_local(tmp_path / "repository")
    with run_python(script, str(storage.root)) as writer:
        pass
    assert writer.returncode == -signal.SIGKILL
    assert keys(storage) == []
    assert len(debris(storage)) == 1
    reader = open_local(storage.root, create=False)
    assert keys(reader) == []
    assert len(debris(storage)) == 1, "a reader must change nothing"
    storage.put("config", b"x")
    assert len(debris(storage)) == 1, "whose directory this is was not known"
    storage.delete("anything")
    assert debris(storage) == []


def test_a_crash_after_the_link_leaves_a_whole_object(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from drkit.storage import open_storage
link = os.link
def link_and_die(*args, **kwargs):
    link(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
os.link = link_and_die
open_storage(sys.argv[1]).put("snapshots/one", b"x" * 100)
"""
    storage = open_local(tmp_path / "repository")
    storage.put("config", b"x")
    with run_python(script, str(storage.root)) as writer:
        pass
    assert writer.returncode == -signal.SIGKILL
    assert len(debris(storage)) == 1
    storage = open_local(storage.root)
    with pytest.raises(ObjectExists):
        storage.put("snapshots/one", b"y")
    assert debris(storage) == []
    assert storage.get("snapshots/one") == b"x" * 100, "removing the second name must not remove the object"


def test_temporary_files_of_a_living_writer_stay(storage: LocalStorage) -> None:
    storage.put("config", b"x")
    living = storage.root / "tmp" / files._temp_name("0123456789abcdef")
    living.write_bytes(b"half")
    with living.open("rb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        open_local(storage.root).put("second", b"x")
        assert living.exists()
    open_local(storage.root).put("third", b"x")
    assert not living.exists()


def test_what_is_no_temporary_file_stays_in_tmp(storage: LocalStorage) -> None:
    (storage.root / "tmp").mkdir()
    (storage.root / "tmp/directory").mkdir()
    (storage.root / "tmp/link").symlink_to("/etc/passwd")
    os.mkfifo(storage.root / "tmp/fifo")
    # A cache of somebody's names its files by their digests; and somebody has reserved something too.
    others = ["d41d8cd98f00b204e9800998ecf8427e", f"{32 * 'a'}-{16 * '0'}", "session.tmp", "reserve-00", "reserve-mine"]
    for name in others:
        (storage.root / "tmp" / name).write_bytes(b"somebody's")
    storage.put("config", b"x")
    storage.put("object", b"x")
    storage.delete("object")
    storage.keep_reserve()
    with storage.released_reserve():
        pass
    found = {path.name for path in (storage.root / "tmp").iterdir()} - {
        f"reserve-{number:02d}" for number in range(1, 16)
    }
    assert found == {"directory", "fifo", "link", *others}
    for name in others:
        assert (storage.root / "tmp" / name).read_bytes() == b"somebody's"


def test_in_a_directory_that_holds_no_repository_nothing_is_removed(storage: LocalStorage) -> None:
    (storage.root / "tmp").mkdir()
    ours = storage.root / "tmp" / files._temp_name("0123456789abcdef")
    ours.write_bytes(b"of a repository whose config is gone")
    storage.put("probe/x", b"x")
    storage.delete("probe/x")
    assert ours.exists()


def test_writers_starting_together_do_not_take_each_other_for_debris(tmp_path: Path) -> None:
    script = """
import sys
from drkit.storage.base import MAX_OBJECT
from drkit.storage.local.directory import LocalStorage
from pathlib import Path
for number in range(150):
    LocalStorage(Path(sys.argv[1])).put(f"{sys.argv[2]}/{number}", b"x" * 1000)
"""
    storage = open_local(tmp_path / "repository")
    names = "abcd"
    writers = [run_python(script, str(storage.root), name) for name in names]
    for writer in writers:
        with writer:
            pass
        assert writer.returncode == 0
    assert keys(storage) == sorted(f"{name}/{number}" for name in names for number in range(150))
    assert debris(storage) == []


@pytest.mark.parametrize("busy", [False, True], ids=["removed before the lock", "locked by the cleaner"])
def test_a_temporary_file_taken_for_debris_before_it_is_locked(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """The moment between creating and locking, in which another process cleans up."""
    flock = fcntl.flock
    taken: list[str] = []

    def flock_after_cleaner(fd: int, operation: int) -> None:
        if not taken:
            taken.extend(debris(storage))
            for name in taken:
                (storage.root / "tmp" / name).unlink()
            if busy:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_cleaner)
    storage.put("packs/aa/one", b"x")
    assert len(taken) == 1
    assert storage.get("packs/aa/one") == b"x"
    assert debris(storage) == []


def test_file_size_limit(storage: LocalStorage) -> None:
    script = """
import resource, sys
from drkit.errors import StorageUnavailable
from drkit.storage import open_storage
storage = open_storage(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    storage.put("packs/large", bytes(1 << 20))
except StorageUnavailable as error:
    print(error, error.hint)
"""
    with run_python(script, str(storage.root)) as writer:
        assert writer.stdout is not None
        said = writer.stdout.read().decode()
    assert "packs/large: file too large (EFBIG)" in said
    assert "ulimit -f" in said
    assert keys(storage) == []
    assert debris(storage) == []


def test_too_many_open_files(storage: LocalStorage) -> None:
    storage.put("packs/aa/before", b"x")
    highest = os.open("/dev/null", os.O_RDONLY)
    os.close(highest)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Every number of free descriptors in turn, so that each open in a put is the one that fails; until none does. How
    # many that takes depends on which numbers other tests' servers have.
    outcomes = []
    for free in range(500):
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + free, limits[1]))
        try:
            storage.put(f"packs/aa/{free}", b"x")
            outcomes.append(f"packs/aa/{free}")
        except StorageUnavailable as error:
            assert "too many open files (EMFILE)" in error.message
            assert error.hint is not None
            assert "ulimit -n" in error.hint
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        if len(outcomes) == 2:
            break
    assert len(outcomes) == 2 and outcomes[0] != "packs/aa/0"
    assert keys(storage) == sorted([*outcomes, "packs/aa/before"])
    assert debris(storage) == []


@pytest.mark.parametrize(
    ("make", "what"),
    [(lambda path: path.symlink_to("/etc/passwd"), "a symbolic link"), (os.mkfifo, "neither a file nor a directory")],
    ids=["symlink", "fifo"],
)
def test_what_is_no_file_is_no_object(storage: LocalStorage, make: Callable[[Path], None], what: str) -> None:
    storage.put("packs/aa/one", b"x")
    make(storage.root / "packs/two")
    with pytest.raises(StorageUnavailable, match=f"packs/two is {what}"):
        keys(storage)
    with pytest.raises(StorageUnavailable, match=f"packs/two is {what}"):
        storage.stat("packs/two")
    with pytest.raises(StorageUnavailable, match="packs/two"):
        storage.get("packs/two")
    with pytest.raises(ObjectExists):
        storage.put("packs/two", b"x")


def test_a_directory_replaced_by_a_symbolic_link_takes_no_objects(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (storage.root / "packs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageUnavailable, match="packs"):
        storage.put("packs/one", b"x")
    with pytest.raises(StorageUnavailable, match="packs is a symbolic link"):
        keys(storage)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_foreign_files_are_no_objects_but_are_named(storage: LocalStorage) -> None:
    storage.put("packs/aa/one", b"x")
    (storage.root / "lost+found").mkdir()
    (storage.root / "packs/aa/one~").write_bytes(b"")
    (storage.root / "README").write_bytes(b"")
    assert keys(storage) == ["packs/aa/one"]
    assert sorted(storage.foreign_files()) == ["README", "lost+found", "packs/aa/one~"]


def test_delete_leaves_no_empty_directories(storage: LocalStorage) -> None:
    storage.put("sessions/run/1", b"x")
    storage.put("sessions/other/1", b"x")
    storage.delete("sessions/run/1")
    assert [path.name for path in (storage.root / "sessions").iterdir()] == ["other"]
    storage.delete("sessions/other/1")
    assert [path.name for path in storage.root.iterdir()] == ["tmp"]


def test_put_syncs_the_file_and_every_directory_above_it(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is what a power cut tests: data first, then the name, then each directory up to the root."""
    steps: list[str] = []
    fsync, link = os.fsync, os.link

    def traced_fsync(fd: int) -> None:
        fsync(fd)
        steps.append("fsync " + str(Path(f"/proc/self/fd/{fd}").readlink().relative_to(storage.root)).split("/")[-1])

    def traced_link(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool) -> None:
        link(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)
        steps.append("link " + target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "link", traced_link)
    storage.put("packs/aa/one", b"x")
    temp = steps[0].removeprefix("fsync ")
    assert files.is_temp_name(temp)
    assert steps == [f"fsync {temp}", "link one", "fsync aa", "fsync packs", "fsync ."]


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_failed_fsync_is_an_error_and_not_tried_again(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    storage.put("packs/before", b"x")
    calls = 0
    fsync = os.fsync

    def broken(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageUnavailable, match=r"cannot store .*/packs/one: input/output error \(EIO\)") as caught:
        storage.put("packs/one", b"x")
    assert calls == failing
    assert caught.value.hint is not None
    assert "dmesg" in caught.value.hint
    assert debris(storage) == []
    assert keys(storage) == (["packs/before"] if failing == 1 else ["packs/before", "packs/one"])


def test_where_there_are_no_hard_links_a_rename_is_as_exclusive(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on FAT: link() says EPERM. The renameat2 underneath is the real one."""

    def no_link(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_link)
    outcomes: list[bool] = []

    def write(number: int) -> None:
        try:
            storage.put("packs/aa/one", b"%d" % number)
            outcomes.append(True)
        except ObjectExists:
            outcomes.append(False)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 7 + [True]
    assert keys(storage) == ["packs/aa/one"]
    assert debris(storage) == []


def test_an_immutable_directory_is_no_missing_link_support(storage: LocalStorage) -> None:
    """Here link() says EPERM too, and so does the rename that is tried then."""
    storage.put("packs/one", b"x")
    subprocess.run(["chattr", "+i", str(storage.root / "packs")], check=True)
    try:
        with pytest.raises(AccessDenied, match=r"packs/two: operation not permitted \(EPERM\)"):
            storage.put("packs/two", b"x")
        with pytest.raises(AccessDenied, match="EPERM"):
            storage.delete("packs/one")
    finally:
        subprocess.run(["chattr", "-i", str(storage.root / "packs")], check=True)
    assert keys(storage) == ["packs/one"]
    assert debris(storage) == []


def test_a_repository_over_two_file_systems_is_refused(storage: LocalStorage) -> None:
    with mounted(storage.root / "packs", "size=1M"):
        with pytest.raises(StorageUnavailable, match=r"\(EXDEV\)") as caught:
            storage.put("packs/one", b"x")
        assert caught.value.hint == "Keep the whole repository directory on one file system."
    assert debris(storage) == []


def test_every_errno_becomes_an_error_of_drkit() -> None:
    for number in errno.errorcode:
        error = explain(OSError(number, os.strerror(number)), "store", Path("/repository/config"))
        assert errno.errorcode[number] in error.message
        assert error.message.startswith("cannot store /repository/config: ")
        assert isinstance(error, StorageFull) == (number in (errno.ENOSPC, errno.EDQUOT))
        assert isinstance(error, AccessDenied) == (number in (errno.EROFS, errno.EACCES, errno.EPERM))
        assert isinstance(error, AccessDenied | StorageUnavailable)


# --- past the page cache ----------------------------------------------------------------------------------------------


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB that can write past the page cache."""
    image, target = tmp_path / "ext4.img", tmp_path / "ext4"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    target.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)


@pytest.fixture
def direct_writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the writes that went past the page cache."""
    sizes: list[int] = []
    write = os.write

    def watched(fd: int, data: memoryview) -> int:
        count = write(fd, data)
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            sizes.append(count)
        return count

    monkeypatch.setattr(os, "write", watched)
    return sizes


def aligned(size: int, rng: random.Random) -> memoryview:
    buffer = mmap.mmap(-1, max(1, size))
    buffer.write(rng.randbytes(size))
    return memoryview(buffer)[:size]


@pytest.mark.parametrize("extra", [0, 1, 511, 512, 4095, 4096, 4097])
def test_large_data_is_written_past_the_page_cache(
    ext4: Path, rng: random.Random, direct_writes: list[int], extra: int
) -> None:
    storage = open_local(ext4 / "repository")
    data = aligned(MIB + extra, rng)
    storage.put("packs/aa/large", data)
    assert storage.get("packs/aa/large") == data
    assert sum(direct_writes) == len(data) // 4096 * 4096
    direct_writes.clear()
    for key, piece in (("small", data[: MIB - 4096]), ("shifted", data[1:]), ("bytes", bytes(data))):
        storage.put(key, piece)
        assert storage.get(key) == piece
    assert not direct_writes


def test_no_space_past_the_page_cache(ext4: Path, rng: random.Random, direct_writes: list[int]) -> None:
    storage = open_local(ext4 / "repository")
    with pytest.raises(StorageFull, match="ENOSPC"):
        for number in range(100):
            storage.put(f"packs/aa/{number}", aligned(2 * MIB, rng))
    assert direct_writes
    assert not debris(storage)
    assert {info.size for info in storage.list("packs/")} == {2 * MIB}


def test_where_it_cannot_pass_the_page_cache_all_is_written_through_it(
    storage: LocalStorage, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def refuse(fd: int, data: memoryview) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return write(fd, data)

    monkeypatch.setattr(os, "write", refuse)
    data = aligned(MIB + 5, rng)
    storage.put("packs/aa/large", data)
    assert storage.get("packs/aa/large") == data


# --- files that are larger than any object ----------------------------------------------------------------------------


def test_a_huge_file_is_refused_unread(storage: LocalStorage) -> None:
    (storage.root / "snapshots").mkdir()
    path = storage.root / "snapshots/x"
    path.touch()
    os.truncate(path, 50 << 30)  # sparse: it takes no space
    assert [info.size for info in storage.list("snapshots/")] == [50 << 30]
    tracemalloc.start()
    try:
        for limit in (MIB, MAX_OBJECT):
            with pytest.raises(IntegrityError, match=rf"snapshots/x .*{50 << 30} bytes.*{limit}"):
                storage.get("snapshots/x", limit=limit)
        assert storage.get("snapshots/x", 40 << 30, 5) == bytes(5)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_a_file_that_grows_while_it_is_read_is_cut(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.put("snapshots/x", b"0123456789")
    path = storage.root / "snapshots/x"
    path.chmod(0o600)
    pread = os.pread

    def slow_pread(descriptor: int, size: int, offset: int) -> bytes:
        with path.open("ab") as file:
            file.write(bytes(MIB))
        return pread(descriptor, min(size, 3), offset)

    monkeypatch.setattr(os, "pread", slow_pread)
    assert storage.get("snapshots/x", limit=10) == b"0123456789"


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/random", "/proc/self/mem", "elsewhere"])
def test_a_link_to_a_file_without_an_end_is_not_followed(storage: LocalStorage, target: str) -> None:
    (storage.root / "snapshots").mkdir()
    (storage.root / "snapshots/x").symlink_to(target)
    with pytest.raises(StorageUnavailable, match="snapshots/x"):
        storage.get("snapshots/x")
    with pytest.raises(StorageUnavailable, match="snapshots/x is a symbolic link"):
        list(storage.list("snapshots/"))


def test_a_device_is_not_an_object(storage: LocalStorage) -> None:
    (storage.root / "snapshots").mkdir()
    os.mknod(storage.root / "snapshots/x", stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
    with pytest.raises(StorageUnavailable, match="snapshots/x is neither a file nor a directory"):
        storage.get("snapshots/x")
