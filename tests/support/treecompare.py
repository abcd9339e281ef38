"""Compare two directory trees by everything that a restore must bring back.

The comparator uses the standard library alone and none of drkit, and it reads both trees itself. Paths are bytes,
relative to the root, which is `b""`. Not compared, because no copy can have them: inode numbers, atime, ctime, birth
time, link counts and sizes of directories.
"""

# ruff: noqa: PTH115, PTH123, PTH208
# pathlib takes no bytes.

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

BLOCK = 1 << 16
ZEROS = bytes(BLOCK)

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFSOCK: "socket",
}


class Difference(NamedTuple):
    """One aspect of one path in which the trees differ.

    Aspects: `missing` (from the right tree), `extra` (not in the left), `type`, `mode`, `uid`, `gid`, `mtime`, `size`,
    `content` (the first block that differs, with its offset), `holes` (the data extents of a sparse file), `target`,
    `device`, `hard links` (all paths of the inode), `xattr NAME` (so ACLs are `xattr system...`; absent is None).
    """

    path: bytes
    aspect: str
    left: object
    right: object

    def __str__(self) -> str:
        left, right = (f"{it:#o}" if self.aspect == "mode" else repr(it) for it in (self.left, self.right))
        return f"{_short(repr(self.path))}: {self.aspect}: {_short(left)} != {_short(right)}"


@dataclass(frozen=True, slots=True)
class Entry:
    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    allocated: int
    device: tuple[int, int]
    target: bytes
    inode: tuple[int, int]
    links: int
    xattrs: dict[str, bytes]


def compare_trees(left: Path, right: Path, *, ignore: Sequence[str] = ()) -> list[Difference]:
    """All differences, ordered by path. `ignore` holds glob patterns of aspects, such as `xattr trusted.*`.

    No archive holds sockets: a socket of the left tree may be absent from the right one.
    """
    found = list(_differences(os.fsencode(left), os.fsencode(right)))
    return [it for it in found if not any(fnmatchcase(it.aspect, pattern) for pattern in ignore)]


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:110]}...{text[-30:]} ({len(text)} characters)"


def describe(differences: Sequence[Difference], limit: int = 25) -> str:
    """For assertion messages."""
    lines = [f"{len(differences)} differences", *map(str, differences[:limit])]
    return "\n".join(lines + ["..."] * (len(differences) > limit))


def scan_tree(root: Path | bytes) -> dict[bytes, Entry]:
    """Everything below `root` and the root itself, without following symlinks; content is not read."""
    root = os.fsencode(root)
    entries: dict[bytes, Entry] = {}
    todo = [b""]
    with reach(root, b"") as path:
        entries[b""] = read_entry(path)
    while todo:
        directory = todo.pop()
        with reach(root, directory) as path:
            for name in os.listdir(path):
                child = os.path.join(directory, name)
                entries[child] = read_entry(os.path.join(path, name))
                if entries[child].kind == "directory":
                    todo.append(child)
    return dict(sorted(entries.items()))


def read_entry(path: bytes) -> Entry:
    status = os.lstat(path)
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    is_device = kind.endswith("device")
    return Entry(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        size=status.st_size if kind == "file" else 0,
        allocated=status.st_blocks * 512,
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0),
        target=os.readlink(path) if kind == "symlink" else b"",
        inode=(status.st_dev, status.st_ino),
        links=status.st_nlink,
        xattrs={
            name: os.getxattr(path, os.fsencode(name), follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        },
    )


@contextmanager
def reach(root: bytes, path: bytes) -> Iterator[bytes]:
    """A short name of root/path, valid inside the `with`: paths in a tree can be longer than the kernel's PATH_MAX.

    Opened piece by piece, because one call takes 4,095 bytes at most. The name goes through /proc, so that it also
    serves the calls that know no `dir_fd` (xattrs). The last component is not followed.
    """
    parent, name = os.path.split(path)
    with ExitStack() as stack:
        fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
        stack.callback(os.close, fd)
        while parent:
            cut = len(parent) if len(parent) < 4000 else parent.rindex(b"/", 0, 4000)
            piece, parent = parent[:cut], parent[cut + 1 :]
            fd = os.open(piece, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            stack.callback(os.close, fd)
        yield b"/proc/self/fd/%d/%s" % (fd, name or b".")


def _differences(left_root: bytes, right_root: bytes) -> Iterator[Difference]:
    left_tree, right_tree = scan_tree(left_root), scan_tree(right_root)
    left_links, right_links = _hard_links(left_tree), _hard_links(right_tree)
    contents_seen: set[tuple[tuple[int, int], tuple[int, int]]] = set()
    for path in sorted(left_tree.keys() | right_tree.keys()):
        left, right = left_tree.get(path), right_tree.get(path)
        if right is None:
            assert left is not None
            if left.kind != "socket":
                yield Difference(path, "missing", left.kind, None)
            continue
        if left is None:
            yield Difference(path, "extra", None, right.kind)
            continue
        if left.kind != right.kind:
            yield Difference(path, "type", left.kind, right.kind)
            continue
        for aspect in ("mode", "uid", "gid", "mtime", "size", "target", "device"):
            ours, theirs = getattr(left, aspect), getattr(right, aspect)
            if ours != theirs:
                yield Difference(path, aspect, ours, theirs)
        for name in sorted(left.xattrs.keys() | right.xattrs.keys()):
            if left.xattrs.get(name) != right.xattrs.get(name):
                yield Difference(path, f"xattr {name}", left.xattrs.get(name), right.xattrs.get(name))
        if left_links.get(path) != right_links.get(path):
            yield Difference(path, "hard links", left_links.get(path), right_links.get(path))
        pair = (left.inode, right.inode)
        if left.kind == "file" and left.size == right.size and pair not in contents_seen:
            contents_seen.add(pair)
            with reach(left_root, path) as ours_path, reach(right_root, path) as theirs_path:
                yield from _content_differences(path, ours_path, theirs_path, left, right)


def _hard_links(tree: dict[bytes, Entry]) -> dict[bytes, tuple[bytes, ...]]:
    """path -> all paths of its inode, for those that have more than one."""
    groups = defaultdict(list)
    for path, entry in tree.items():
        if entry.kind != "directory" and entry.links > 1:
            groups[entry.inode].append(path)
    return {path: tuple(group) for group in groups.values() if len(group) > 1 for path in group}


def _content_differences(path: bytes, ours: bytes, theirs: bytes, left: Entry, right: Entry) -> Iterator[Difference]:
    with open(ours, "rb", buffering=0) as a, open(theirs, "rb", buffering=0) as b:
        for one, other in zip_longest(_data_blocks(a.fileno()), _data_blocks(b.fileno())):
            if one != other:
                yield Difference(path, "content", one, other)
                return
        if left.allocated < left.size or right.allocated < right.size:
            extents = list(_data_extents(a.fileno())), list(_data_extents(b.fileno()))
            if extents[0] != extents[1]:
                yield Difference(path, "holes", *extents)


def _data_blocks(fd: int) -> Iterator[tuple[int, bytes]]:
    """The aligned blocks that hold anything but zeros: content is the same whether zeros are stored or a hole."""
    done = 0
    for start, end in _data_extents(fd):
        for offset in range(max(start - start % BLOCK, done), end, BLOCK):
            block = os.pread(fd, BLOCK, offset)
            if block != ZEROS[: len(block)]:
                yield offset, block
            done = offset + BLOCK


def _data_extents(fd: int) -> Iterator[tuple[int, int]]:
    size = os.fstat(fd).st_size
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end
