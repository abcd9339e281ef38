"""The comparator must see every kind of damage that a restore can do, and nothing in an exact copy."""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.torture import (
    ACCESS_ACL,
    CAPABILITY,
    DEFAULT_ACL,
    GIB,
    MIB,
    PING_CAPABILITY,
    named_acl,
)
from tests.support.treecompare import Difference, compare_trees, describe, reach, scan_tree

NANOSECOND = 1_600_000_000_123_456_789
DEEP = b"/".join([b"d" * 255] * 17)  # longer than PATH_MAX, so that no tool could copy it
DEEP_FILE = DEEP + b"/file"
FAR = 8 * GIB + 12_345

Damage = Callable[[Path], None]
DAMAGES: list[tuple[Damage, set[tuple[bytes, str]]]] = []


def damage(*expected: tuple[bytes, str]) -> Callable[[Damage], Damage]:
    """Register a way to damage a copy, and the (path, aspect) pairs that must be reported: those and no other."""

    def register(function: Damage) -> Damage:
        DAMAGES.append((function, set(expected)))
        return function

    return register


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    """An exact copy, as long as no test has changed it."""
    target = tmp_path / "copy"
    copy_with_tar(original, target)
    for root in (original, target):
        dig(root)
    set_mtime(target, b"", scan_tree(original)[b""].mtime)
    return target


@pytest.fixture
def original(tmp_path: Path) -> Path:
    root = tmp_path / "original"
    root.mkdir(mode=0o751)
    os.chown(root, 999, 998)
    os.setxattr(root, "user.root", b"1")
    for name in ("file", "other", "same-1", "same-2", "name"):
        (root / name).write_bytes(b"0123456789" * 20_000)
    (root / "other").write_bytes(b"9876543210" * 20_000)
    (root / "empty").touch()
    (root / "e\u0301").touch()
    (root / "setuid").write_bytes(b"#!")
    (root / "setuid").chmod(0o4755)
    os.setxattr(root / "setuid", CAPABILITY, PING_CAPABILITY)
    (root / "directory").mkdir(mode=0o1777)
    (root / "directory" / "empty").mkdir()
    (root / "directory" / "file").touch()
    os.setxattr(root / "directory", DEFAULT_ACL, named_acl(33, 998))
    (root / "symlink").symlink_to("file")
    (root / "dangling").symlink_to("/nowhere")
    os.mkfifo(root / "fifo")
    os.mknod(root / "char", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(root / "block", 0o600 | stat.S_IFBLK, os.makedev(7, 0))
    for group in ("x", "y"):
        (root / f"{group}1").write_bytes(b"linked")
        for number in (2, 3):
            (root / f"{group}{number}").hardlink_to(root / f"{group}1")
    (root / "xattrs").touch()
    for name, value in (("user.one", b"1"), ("user.empty", b""), ("user.binary", b"\0\xff\n")):
        os.setxattr(root / "xattrs", name, value)
    (root / "acl").touch()
    os.setxattr(root / "acl", ACCESS_ACL, named_acl(33, 998))
    with (root / "sparse").open("wb") as file:
        file.truncate(4 * MIB)
        file.seek(2 * MIB)
        file.write(b"data")
    with (root / "huge").open("wb") as file:
        file.truncate(9 * GIB)
        file.seek(FAR)
        file.write(b"data")
    (root / "dense").write_bytes(bytes(MIB))
    with socket.socket(socket.AF_UNIX) as server, reach(os.fsencode(root), b"socket") as path:
        server.bind(path)
    for number, path in enumerate(scan_tree(root)):
        set_mtime(root, path, NANOSECOND + (0 if path.startswith(b"same") else number * 1_000_003))
    return root


def set_mtime(root: Path, path: bytes, when: int) -> None:
    with reach(os.fsencode(root), path) as here:
        os.utime(here, ns=(when, when), follow_symlinks=False)


def copy_with_tar(source: Path, target: Path) -> None:
    """Copy everything but sockets."""
    target.mkdir()
    options = ["--xattrs", "--xattrs-include=*", "--sparse", "--numeric-owner", "--format=posix"]
    create = ["tar", "-C", str(source), *options, "--warning=no-file-ignored", "-c", "."]
    extract = ["tar", "-C", str(target), *options, "-p", "--same-owner", "--delay-directory-restore", "-x"]
    with subprocess.Popen(create, stdout=subprocess.PIPE) as process:
        subprocess.run(extract, stdin=process.stdout, check=True)
    assert process.returncode == 0


def dig(root: Path) -> None:
    """Add a file at DEEP_FILE."""
    for depth in range(1, 18):
        with reach(os.fsencode(root), b"/".join([b"d" * 255] * depth)) as path:
            Path(os.fsdecode(path)).mkdir()
    write_deep(root, b"beyond PATH_MAX")
    for path in scan_tree(root):
        if path.startswith(b"d" * 255):
            set_mtime(root, path, NANOSECOND)


def write_deep(root: Path, data: bytes) -> None:
    with reach(os.fsencode(root), DEEP_FILE) as path:
        Path(os.fsdecode(path)).write_bytes(data)


def pairs(differences: list[Difference]) -> set[tuple[bytes, str]]:
    return {(it.path, it.aspect) for it in differences}


def test_exact_copy_has_no_differences(original: Path, copy: Path) -> None:
    assert compare_trees(original, copy) == []


def test_a_tree_equals_itself(original: Path) -> None:
    assert compare_trees(original, original) == []


def test_a_socket_copied_too_is_no_difference(original: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", original, tmp_path / "copy"], check=True)
    assert (tmp_path / "copy" / "socket").is_socket()
    assert compare_trees(original, tmp_path / "copy", ignore=("holes",)) == []


@damage((b"file", "content"))
def one_byte_flipped(root: Path) -> None:
    with (root / "file").open("r+b") as file:
        file.seek(100_001)
        file.write(b"X")


@damage((b"file", "content"))
def last_byte_flipped(root: Path) -> None:
    with (root / "file").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"X")


@damage((b"file", "content"), (b"other", "content"))
def contents_swapped(root: Path) -> None:
    one, other = (root / "file").read_bytes(), (root / "other").read_bytes()
    (root / "file").write_bytes(other)
    (root / "other").write_bytes(one)


@damage((b"file", "content"))
def contents_zeroed(root: Path) -> None:
    (root / "file").write_bytes(bytes((root / "file").stat().st_size))


@damage((b"file", "content"))
def tail_became_a_hole(root: Path) -> None:
    size = (root / "file").stat().st_size
    os.truncate(root / "file", 100_000)
    os.truncate(root / "file", size)


@damage((b"huge", "content"))
def byte_beyond_8_gib_flipped(root: Path) -> None:
    with (root / "huge").open("r+b") as file:
        file.seek(FAR)
        file.write(b"D")


@damage((b"huge", "size"))
def size_modulo_8_gib(root: Path) -> None:
    os.truncate(root / "huge", GIB)


@damage((DEEP_FILE, "content"))
def content_beyond_path_max(root: Path) -> None:
    write_deep(root, b"beyond path_max")


@damage((DEEP_FILE, "missing"))
def missing_beyond_path_max(root: Path) -> None:
    with reach(os.fsencode(root), DEEP_FILE) as path:
        Path(os.fsdecode(path)).unlink()


@damage((b"file", "size"))
def truncated(root: Path) -> None:
    os.truncate(root / "file", 199_999)


@damage((b"file", "size"))
def truncated_to_nothing(root: Path) -> None:
    os.truncate(root / "file", 0)


@damage((b"file", "size"))
def appended(root: Path) -> None:
    with (root / "file").open("ab") as file:
        file.write(b"\0")


@damage((b"empty", "size"))
def no_longer_empty(root: Path) -> None:
    (root / "empty").write_bytes(b"\n")


@damage((b"file", "mode"))
def mode_bit(root: Path) -> None:
    (root / "file").chmod(0o645)


@damage((b"setuid", "mode"))
def setuid_lost(root: Path) -> None:
    (root / "setuid").chmod(0o755)


@damage((b"directory", "mode"))
def sticky_lost(root: Path) -> None:
    (root / "directory").chmod(0o777)


@damage((b"directory/empty", "mode"))
def setgid_gained(root: Path) -> None:
    (root / "directory" / "empty").chmod(0o2755)


@damage((b"fifo", "mode"))
def fifo_mode(root: Path) -> None:
    (root / "fifo").chmod(0o666)


@damage((b"file", "uid"))
def owner(root: Path) -> None:
    os.chown(root / "file", 2**32 - 2, -1)


@damage((b"file", "gid"))
def group(root: Path) -> None:
    os.chown(root / "file", -1, 1)


@damage((b"symlink", "uid"), (b"symlink", "gid"))
def owner_of_a_symlink(root: Path) -> None:
    os.lchown(root / "symlink", 1, 1)


@damage((b"", "mode"))
def mode_of_the_root(root: Path) -> None:
    root.chmod(0o755)


@damage((b"", "uid"), (b"", "gid"))
def owner_of_the_root(root: Path) -> None:
    os.chown(root, 0, 0)


@damage((b"", "xattr user.root"))
def xattr_of_the_root(root: Path) -> None:
    os.removexattr(root, "user.root")


@damage((b"file", "missing"))
def file_missing(root: Path) -> None:
    (root / "file").unlink()


@damage((b"directory/empty", "missing"))
def empty_directory_missing(root: Path) -> None:
    (root / "directory" / "empty").rmdir()


@damage((b"x3", "missing"), (b"x1", "hard links"), (b"x2", "hard links"))
def link_missing(root: Path) -> None:
    (root / "x3").unlink()


@damage((b"extra", "extra"))
def extra_file(root: Path) -> None:
    (root / "extra").touch()


@damage((b"directory/extra", "extra"))
def extra_socket(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, reach(os.fsencode(root), b"directory/extra") as path:
        server.bind(path)


@damage((b"name", "missing"), (b"namf", "extra"))
def renamed_by_one_byte(root: Path) -> None:
    (root / "name").rename(root / "namf")


@damage(("e\u0301".encode(), "missing"), ("\u00e9".encode(), "extra"))
def name_normalised(root: Path) -> None:
    (root / "e\u0301").rename(root / "\u00e9")


@damage((b"file", "type"))
def file_became_a_symlink(root: Path) -> None:
    (root / "file").unlink()
    (root / "file").symlink_to("other")


@damage((b"symlink", "type"))
def symlink_became_its_target(root: Path) -> None:
    (root / "symlink").unlink()
    (root / "symlink").write_bytes((root / "file").read_bytes())


@damage((b"directory", "type"), (b"directory/empty", "missing"), (b"directory/file", "missing"))
def directory_became_a_file(root: Path) -> None:
    (root / "directory" / "empty").rmdir()
    (root / "directory" / "file").unlink()
    (root / "directory").rmdir()
    (root / "directory").touch()


@damage((b"fifo", "type"))
def fifo_became_a_file(root: Path) -> None:
    (root / "fifo").unlink()
    (root / "fifo").touch()


@damage((b"char", "type"))
def character_device_became_a_block_device(root: Path) -> None:
    (root / "char").unlink()
    os.mknod(root / "char", 0o600 | stat.S_IFBLK, os.makedev(1, 3))


@damage((b"socket", "type"))
def socket_became_a_file(root: Path) -> None:
    (root / "socket").touch()


@damage((b"block", "device"))
def device_number(root: Path) -> None:
    (root / "block").unlink()
    os.mknod(root / "block", 0o600 | stat.S_IFBLK, os.makedev(7, 1))


@damage((b"symlink", "target"))
def symlink_target(root: Path) -> None:
    (root / "symlink").unlink()
    (root / "symlink").symlink_to("filf")


@damage((b"dangling", "target"))
def absolute_target_made_relative(root: Path) -> None:
    (root / "dangling").unlink()
    (root / "dangling").symlink_to("nowhere")


@damage((b"x1", "hard links"), (b"x2", "hard links"), (b"x3", "hard links"))
def hard_link_broken(root: Path) -> None:
    (root / "x2").unlink()
    (root / "x2").write_bytes(b"linked")


@damage((b"same-1", "hard links"), (b"same-2", "hard links"))
def same_files_merged(root: Path) -> None:
    (root / "same-2").unlink()
    (root / "same-2").hardlink_to(root / "same-1")


@damage(*((name, "hard links") for name in (b"x1", b"x2", b"x3", b"y1", b"y2", b"y3")), (b"x3", "mtime"))
def link_joined_another_group(root: Path) -> None:
    (root / "x3").unlink()
    (root / "x3").hardlink_to(root / "y1")


@damage((b"xattrs", "xattr user.one"))
def xattr_lost(root: Path) -> None:
    os.removexattr(root / "xattrs", "user.one")


@damage((b"xattrs", "xattr user.empty"))
def empty_xattr_lost(root: Path) -> None:
    os.removexattr(root / "xattrs", "user.empty")


@damage((b"xattrs", "xattr user.binary"))
def xattr_cut_at_nul(root: Path) -> None:
    os.setxattr(root / "xattrs", "user.binary", b"")


@damage((b"xattrs", "xattr user.two"))
def xattr_gained(root: Path) -> None:
    os.setxattr(root / "xattrs", "user.two", b"2")


@damage((b"dangling", "xattr trusted.symlink"))
def xattr_of_a_symlink(root: Path) -> None:
    os.setxattr(root / "dangling", "trusted.symlink", b"y", follow_symlinks=False)


@damage((b"acl", f"xattr {ACCESS_ACL}"))
def acl_given_to_another_id(root: Path) -> None:
    os.setxattr(root / "acl", ACCESS_ACL, named_acl(33, 999))


@damage((b"acl", f"xattr {ACCESS_ACL}"))
def acl_lost_though_the_mode_stays(root: Path) -> None:
    mode = (root / "acl").stat().st_mode
    os.removexattr(root / "acl", ACCESS_ACL)
    (root / "acl").chmod(mode)


@damage((b"directory", f"xattr {DEFAULT_ACL}"))
def default_acl_lost(root: Path) -> None:
    os.removexattr(root / "directory", DEFAULT_ACL)


@damage((b"directory/empty", f"xattr {DEFAULT_ACL}"))
def default_acl_inherited(root: Path) -> None:
    os.setxattr(root / "directory" / "empty", DEFAULT_ACL, named_acl(33, 998))


@damage((b"setuid", f"xattr {CAPABILITY}"))
def capability_lost(root: Path) -> None:
    os.removexattr(root / "setuid", CAPABILITY)


@damage((b"setuid", f"xattr {CAPABILITY}"))
def capability_not_effective(root: Path) -> None:
    os.setxattr(root / "setuid", CAPABILITY, struct.pack("<I", 0x02000000) + PING_CAPABILITY[4:])


@damage((b"sparse", "holes"))
def sparse_file_filled(root: Path) -> None:
    data = (root / "sparse").read_bytes()
    (root / "sparse").unlink()
    (root / "sparse").write_bytes(data)


@damage((b"sparse", "holes"))
def sparse_file_filled_in_part(root: Path) -> None:
    with (root / "sparse").open("r+b") as file:
        file.write(bytes(4096))


@damage((b"dense", "holes"))
def zeros_became_a_hole(root: Path) -> None:
    os.truncate(root / "dense", 0)
    os.truncate(root / "dense", MIB)


@pytest.mark.parametrize(("harm", "expected"), DAMAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_damage_is_reported_exactly(original: Path, copy: Path, harm: Damage, expected: set[tuple[bytes, str]]) -> None:
    harm(copy)
    # The damage is to be one aspect only: what is made anew gets the time and mode of what it replaces.
    entries, kinds = scan_tree(original), {path: entry.kind for path, entry in scan_tree(copy).items()}
    for path in entries.keys() & kinds.keys():
        if (path, "mtime") not in expected:
            set_mtime(copy, path, entries[path].mtime)
    found = compare_trees(original, copy)
    assert pairs(found) == expected, describe(found)


@pytest.mark.parametrize("path", [b"", b"file", b"directory", b"symlink", b"fifo", b"char", DEEP_FILE])
@pytest.mark.parametrize("nanoseconds", [1, -1])
def test_one_nanosecond_is_reported(original: Path, copy: Path, path: bytes, nanoseconds: int) -> None:
    when = scan_tree(original)[path].mtime + nanoseconds
    set_mtime(copy, path, when)
    assert compare_trees(original, copy) == [Difference(path, "mtime", when - nanoseconds, when)]


def test_ignored_aspects_are_left_out(original: Path, copy: Path) -> None:
    os.setxattr(copy / "empty", "trusted.one", b"1")
    os.setxattr(copy / "empty", "user.one", b"1")
    set_mtime(copy, b"empty", scan_tree(original)[b"empty"].mtime)
    found = compare_trees(original, copy, ignore=("xattr trusted.*",))
    assert pairs(found) == {(b"empty", "xattr user.one")}


def test_describe_is_short_and_escapes(original: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (original / "new\nline\udcff").touch()
    text = describe(compare_trees(original, empty, ignore=("mode", "mtime")), limit=1000)
    assert r"b'new\nline\xff': missing: 'file' != None" in text.splitlines()
    assert max(map(len, text.splitlines())) < 300
