"""Change a tree at random, as containers do between two backups, to find what an incremental capture overlooks.

Everything is drawn from one random generator: a seed and a tree give the same changes. Nothing is made that GNU tar
cannot bring back (see `torture`). Needs root.
"""

# ruff: noqa: PTH102, PTH105, PTH108, PTH123, PTH211
# pathlib takes no bytes.

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

from tests.support.torture import ACCESS_ACL, DEFAULT_ACL, KIB, MIB, NAMES, OWNERS, TARGETS, TIMES, XATTRS, named_acl
from tests.support.treecompare import Entry, reach, read_entry, scan_tree

LONGEST_PATH = 3500  # with room for a name below it


def mutate_tree(root: Path, rng: random.Random, count: int) -> list[str]:
    """Make `count` changes. Returns what was done, for messages."""
    tree = _Tree(os.fsencode(root), rng)
    done: list[str] = []
    while len(done) < count:
        mutation = rng.choice(MUTATIONS)
        subject = mutation(tree)
        if subject is not None:
            done.append(f"{mutation.__name__} {subject!r}")
    return done


class _Tree:
    def __init__(self, root: bytes, rng: random.Random) -> None:
        self.root, self.rng = root, rng
        self.paths = list(scan_tree(root))

    def entry(self, path: bytes) -> Entry | None:
        try:
            with reach(self.root, path) as here:
                return read_entry(here)
        except (FileNotFoundError, NotADirectoryError):
            return None  # gone, or moved with a directory, by an earlier change

    def pick(self, *kinds: str) -> tuple[bytes, Entry] | None:
        """Something below the root that is of one of the kinds; None after too many tries."""
        for path in (self.rng.choice(self.paths) for _ in range(100)):
            entry = self.entry(path)
            if path and entry is not None and entry.kind in kinds:
                return path, entry
        return None

    def new_path(self) -> bytes | None:
        """A free path in a directory that is there."""
        parent = self.pick("directory")
        if parent is None or len(parent[0]) > LONGEST_PATH:
            return None
        path = os.path.join(parent[0], self.rng.choice(NAMES) if self.rng.random() < 0.3 else b"new-%s" % self.word())
        if self.entry(path) is not None:
            return None
        self.paths.append(path)
        return path

    def word(self) -> bytes:
        return self.rng.randbytes(3).hex().encode()

    def data(self) -> bytes:
        return self.rng.randbytes(int(2 ** self.rng.uniform(0, 18)))

    def make(self, path: bytes, kind: str) -> None:
        with reach(self.root, path) as here:
            match kind:
                case "file":
                    with open(here, "xb") as file:
                        file.write(self.data())
                case "directory":
                    os.mkdir(here)
                case "symlink":
                    os.symlink(self.rng.choice(TARGETS), here)
                case "fifo":
                    os.mkfifo(here)
                case "character device":
                    os.mknod(here, stat.S_IFCHR | 0o600, os.makedev(1, self.rng.randrange(1 << 20)))


NODES = ("file", "symlink", "fifo", "character device")
ALL_KINDS = (*NODES, "directory")


def overwrite(tree: _Tree) -> bytes | None:
    """Also with the time set back: only ctime and the content tell."""
    picked = tree.pick("file")
    if picked is None:
        return None
    path, entry = picked
    with reach(tree.root, path) as here:
        with open(here, "r+b") as file:
            file.seek(tree.rng.randrange(entry.size + 1))
            file.write(tree.data()[: max(1, entry.size - file.tell())])
        if tree.rng.random() < 0.5:
            os.utime(here, ns=(entry.mtime, entry.mtime))
    return path


def append(tree: _Tree) -> bytes | None:
    picked = tree.pick("file")
    if picked is None:
        return None
    with reach(tree.root, picked[0]) as here, open(here, "ab") as file:
        file.write(tree.data())
    return picked[0]


def truncate(tree: _Tree) -> bytes | None:
    """Shorter, or longer with a hole at the end."""
    picked = tree.pick("file")
    if picked is None:
        return None
    with reach(tree.root, picked[0]) as here:
        os.truncate(here, tree.rng.choice((0, picked[1].size // 2, picked[1].size + tree.rng.randrange(1, MIB))))
    return picked[0]


def sparsify(tree: _Tree) -> bytes | None:
    picked = tree.pick("file")
    if picked is None:
        return None
    with reach(tree.root, picked[0]) as here, open(here, "r+b") as file:
        file.truncate(0)
        file.truncate(2 * MIB)
        for _ in range(3):
            file.seek(tree.rng.randrange(0, 2 * MIB - 4 * KIB))
            file.write(b"island")
    return picked[0]


def replace(tree: _Tree) -> bytes | None:
    """As editors save: a new inode takes the name."""
    picked, new = tree.pick("file"), tree.new_path()
    if picked is None or new is None:
        return None
    tree.make(new, "file")
    _move(tree, new, picked[0])
    return picked[0]


def _move(tree: _Tree, source: bytes, target: bytes) -> None:
    with reach(tree.root, source) as here, reach(tree.root, target) as there:
        os.replace(here, there)


def change_mode(tree: _Tree) -> bytes | None:
    picked = tree.pick("file", "fifo", "character device", "directory")
    if picked is None:
        return None
    with reach(tree.root, picked[0]) as here:
        os.chmod(here, tree.rng.randrange(0o10000))  # noqa: PTH101
    return picked[0]


def change_owner(tree: _Tree) -> bytes | None:
    picked = tree.pick(*ALL_KINDS)
    if picked is None:
        return None
    with reach(tree.root, picked[0]) as here:
        os.lchown(here, *tree.rng.choice(OWNERS))
    return picked[0]


def change_time(tree: _Tree) -> bytes | None:
    picked = tree.pick(*ALL_KINDS)
    if picked is None:
        return None
    when = tree.rng.choice((*TIMES, picked[1].mtime + 1, picked[1].mtime - 1))
    with reach(tree.root, picked[0]) as here:
        os.utime(here, ns=(when, when), follow_symlinks=False)
    return picked[0]


def rename(tree: _Tree) -> bytes | None:
    picked, new = tree.pick(*NODES), tree.new_path()
    if picked is None or new is None:
        return None
    _move(tree, picked[0], new)
    return picked[0]


def rename_directory(tree: _Tree) -> bytes | None:
    picked = tree.pick("directory")
    if picked is None or picked[0].startswith(b"deep"):  # there any longer name leads beyond PATH_MAX
        return None
    new = os.path.join(os.path.dirname(picked[0]), b"moved-" + tree.word())  # noqa: PTH120
    if tree.entry(new) is not None:
        return None
    _move(tree, picked[0], new)
    tree.paths += [new + path[len(picked[0]) :] for path in tree.paths if path.startswith(picked[0] + b"/")]
    tree.paths.append(new)
    return picked[0]


def swap(tree: _Tree) -> bytes | None:
    """Both paths are there before and after: only inode and content tell."""
    one, other, between = tree.pick("file"), tree.pick("file"), tree.new_path()
    if one is None or other is None or between is None or one[1].inode == other[1].inode:
        return None
    _move(tree, one[0], between)
    _move(tree, other[0], one[0])
    _move(tree, between, other[0])
    return one[0]


def add_link(tree: _Tree) -> bytes | None:
    picked, new = tree.pick("file", "symlink"), tree.new_path()
    if picked is None or new is None:
        return None
    with reach(tree.root, picked[0]) as here, reach(tree.root, new) as there:
        os.link(here, there, follow_symlinks=False)
    return new


def break_link(tree: _Tree) -> bytes | None:
    """A copy takes the place of a link: the same content, another inode."""
    picked = tree.pick("file")
    if picked is None or picked[1].links < 2 or picked[1].size > MIB:
        return None
    with reach(tree.root, picked[0]) as here:
        data = Path(os.fsdecode(here)).read_bytes()
        os.unlink(here)
        Path(os.fsdecode(here)).write_bytes(data)
        os.utime(here, ns=(picked[1].mtime, picked[1].mtime))
    return picked[0]


def remove(tree: _Tree) -> bytes | None:
    picked = tree.pick(*NODES)
    if picked is None:
        return None
    with reach(tree.root, picked[0]) as here:
        os.unlink(here)
    return picked[0]


def create(tree: _Tree) -> bytes | None:
    new = tree.new_path()
    if new is not None:
        tree.make(new, tree.rng.choice(ALL_KINDS))
    return new


def change_type(tree: _Tree) -> bytes | None:
    picked = tree.pick(*NODES)
    if picked is None:
        return None
    with reach(tree.root, picked[0]) as here:
        os.unlink(here)
        tree.make(picked[0], tree.rng.choice([kind for kind in ALL_KINDS if kind != picked[1].kind]))
        os.utime(here, ns=(picked[1].mtime, picked[1].mtime), follow_symlinks=False)
    return picked[0]


def retarget(tree: _Tree) -> bytes | None:
    picked = tree.pick("symlink")
    if picked is None:
        return None
    with reach(tree.root, picked[0]) as here:
        os.unlink(here)
        tree.make(picked[0], "symlink")
        os.utime(here, ns=(picked[1].mtime, picked[1].mtime), follow_symlinks=False)
    return picked[0]


def set_xattr(tree: _Tree) -> bytes | None:
    """Only ctime tells."""
    picked = tree.pick("file", "directory")
    if picked is None or picked[1].xattrs:  # ext4 has one block for them all
        return None
    name, value = tree.rng.choice(list(XATTRS.items()))
    with reach(tree.root, picked[0]) as here:
        os.setxattr(here, os.fsencode(name), value)
    return picked[0]


def remove_xattr(tree: _Tree) -> bytes | None:
    picked = tree.pick("file", "directory")
    if picked is None or not picked[1].xattrs:
        return None
    with reach(tree.root, picked[0]) as here:
        os.removexattr(here, os.fsencode(tree.rng.choice(sorted(picked[1].xattrs))))
    return picked[0]


def set_acl(tree: _Tree) -> bytes | None:
    picked = tree.pick("file", "directory")
    if picked is None or len(picked[1].xattrs) > 2:
        return None
    name = tree.rng.choice((ACCESS_ACL, DEFAULT_ACL)) if picked[1].kind == "directory" else ACCESS_ACL
    with reach(tree.root, picked[0]) as here:
        os.setxattr(here, name, named_acl(*tree.rng.sample((33, 998, 999, 54_321), 2), mask=tree.rng.randrange(8)))
    return picked[0]


def change_root(tree: _Tree) -> bytes | None:
    os.chmod(tree.root, tree.rng.randrange(0o10000))  # noqa: PTH101
    os.chown(tree.root, *tree.rng.choice(OWNERS))
    return b""


MUTATIONS: tuple[Callable[[_Tree], bytes | None], ...] = (
    overwrite,
    append,
    truncate,
    sparsify,
    replace,
    change_mode,
    change_owner,
    change_time,
    rename,
    rename_directory,
    swap,
    add_link,
    break_link,
    remove,
    create,
    change_type,
    retarget,
    set_xattr,
    remove_xattr,
    set_acl,
    change_root,
)
