"""The torture tree must really hold what it claims: a file system that drops something silently would prove nothing."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support import torture
from tests.support.mutations import MUTATIONS, mutate_tree
from tests.support.torture import ACCESS_ACL, CAPABILITY, DEFAULT_ACL, GIB, MIB, PATH_MAX, make_torture_tree
from tests.support.treecompare import Entry, compare_trees, describe, scan_tree

MANY = 500


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> torture.TortureTree:
    root = tmp_path_factory.mktemp("torture")
    everything = {"trusted_xattrs": True, "security_xattrs": True, "beyond_path_max": True}
    return make_torture_tree(root, random.Random(1), many=MANY, **everything)


@pytest.fixture(scope="module")
def entries(tree: torture.TortureTree) -> dict[bytes, Entry]:
    return scan_tree(tree.root)


def with_xattr(entries: dict[bytes, Entry], name: str) -> Iterable[Entry]:
    return (entry for entry in entries.values() if name in entry.xattrs)


def test_every_type_is_there(entries: dict[bytes, Entry]) -> None:
    counts = Counter(entry.kind for entry in entries.values())
    assert counts.keys() == {"file", "directory", "symlink", "fifo", "character device", "block device", "socket"}
    assert min(counts.values()) >= 3


def test_sockets_are_named(tree: torture.TortureTree, entries: dict[bytes, Entry]) -> None:
    assert sorted(path for path, entry in entries.items() if entry.kind == "socket") == list(tree.sockets)


def test_root_has_attributes_of_its_own(entries: dict[bytes, Entry]) -> None:
    root = entries[b""]
    assert (root.uid, root.gid, root.mode) == (999, 998, 0o2751)
    assert {"user.root", "trusted.root", DEFAULT_ACL} <= root.xattrs.keys()


def test_modes_and_owners_are_kept(entries: dict[bytes, Entry]) -> None:
    for mode in torture.MODES:
        for kind in (b"file", b"directory"):
            assert entries[b"modes/%s-%04o" % (kind, mode)].mode == mode
    assert entries[b"modes/directory-2755/below"].mode == 0o700
    for uid, gid in torture.OWNERS:
        for kind in (b"file", b"directory", b"symlink"):
            owned = entries[b"owners/%d-%d-%s" % (uid, gid, kind)]
            assert (owned.uid, owned.gid) == (uid, gid)


def test_times_are_kept_to_the_nanosecond(entries: dict[bytes, Entry]) -> None:
    for when in torture.TIMES:
        for kind in (b"file", b"directory", b"symlink"):
            assert entries[b"times/%s%+d" % (kind, when)].mtime == when
    scattered = [entry.mtime for path, entry in entries.items() if not path.startswith(b"times") and entry.links == 1]
    assert len(set(scattered)) == len(scattered)


def test_names_and_paths_reach_the_limits(tree: torture.TortureTree, entries: dict[bytes, Entry]) -> None:
    used = {byte for path in entries for byte in path}
    assert used == set(range(1, 256))
    assert max(len(os.path.basename(path)) for path in entries) == 255  # noqa: PTH119
    assert max(path.count(b"/") for path in entries) > 300
    below = [path for path in entries if path not in tree.beyond_path_max]
    assert max(len(b"./" + path) for path in below) == PATH_MAX - 1
    assert len(tree.beyond_path_max) == 3
    assert min(len(b"./" + path) for path in tree.beyond_path_max) >= PATH_MAX
    for name in torture.NAMES:
        assert entries[b"names/files/" + name].kind == "file"
        assert entries[b"names/directories/" + name].kind == "directory"


def test_symlinks_have_every_target(entries: dict[bytes, Entry]) -> None:
    targets = {entry.target for path, entry in entries.items() if path.startswith(b"symlinks/")}
    assert set(torture.TARGETS) <= targets
    assert max(map(len, targets)) == PATH_MAX - 1


def test_sparse_files_are_sparse(entries: dict[bytes, Entry]) -> None:
    sparse = {path: entry for path, entry in entries.items() if path.startswith(b"sparse/") and entry.kind == "file"}
    assert max(entry.size for entry in sparse.values()) == 1024 * GIB
    assert sparse[b"sparse/9-gib"].size == 9 * GIB
    assert all(entry.allocated < entry.size for entry in sparse.values())
    assert entries[b"types/zeros"].allocated >= entries[b"types/zeros"].size == MIB


def test_xattrs_are_kept(entries: dict[bytes, Entry]) -> None:
    for path in (b"xattrs/all", b"xattrs/all-read-only", b"xattrs/directory"):
        assert torture.XATTRS.items() <= entries[path].xattrs.items()
    assert len(list(with_xattr(entries, CAPABILITY))) == 5
    assert {entry.kind for entry in with_xattr(entries, ACCESS_ACL)} == {"file", "directory", "fifo"}
    assert {entry.kind for entry in with_xattr(entries, DEFAULT_ACL)} == {"directory"}
    for name in ("trusted.binary", "security.drkit-test"):
        assert {"symlink", "fifo", "character device"} <= {entry.kind for entry in with_xattr(entries, name)}
    # What the kernel takes away silently: a capability by chown, an ACL that says no more than the mode.
    assert entries[b"xattrs/capability-setuid"].mode == 0o4711
    assert DEFAULT_ACL not in entries[b"acls/default/before-directory"].xattrs
    assert DEFAULT_ACL in entries[b"acls/default/after-directory"].xattrs
    assert not entries[b"acls/both-setgid/plain"].xattrs
    # The default ACL of the root was given last: nothing has inherited it.
    assert not entries[b"types"].xattrs


def test_hard_links_are_there(entries: dict[bytes, Entry]) -> None:
    linked = {path: entry for path, entry in entries.items() if entry.kind != "directory" and entry.links > 1}
    assert {entry.kind for entry in linked.values()} == {"file", "symlink"}
    assert linked[b"links/z/made-first"].inode == linked[b"links/a/link"].inode == linked[b"links/a-b/link"].inode
    assert max(entry.links for entry in linked.values()) == 300


def test_many_files_share_a_directory(entries: dict[bytes, Entry]) -> None:
    assert sum(path.startswith(b"many/") for path in entries) == MANY


def test_options_add_what_is_left_out_by_default(tmp_path: Path) -> None:
    tree = make_torture_tree(tmp_path, random.Random(1), many=1, huge_files=False)
    entries = scan_tree(tmp_path)
    assert tree.beyond_path_max == ()
    assert max(len(b"./" + path) for path in entries) == PATH_MAX - 1
    assert max(entry.size for entry in entries.values()) < GIB
    names = {name for entry in entries.values() for name in entry.xattrs}
    assert not [name for name in names if name.startswith("trusted.")]
    assert {name for name in names if name.startswith("security.")} == {CAPABILITY}


def test_a_tree_is_made_only_in_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not empty"):
        make_torture_tree(tmp_path, random.Random(1), many=1)


def test_same_seed_same_tree_and_same_mutations(tmp_path: Path) -> None:
    """The proof that a printed seed is enough to repeat a failure."""
    done = []
    for name in ("one", "two"):
        root = tmp_path / name
        root.mkdir()
        make_torture_tree(root, random.Random(7), many=20, huge_files=False)
    before = scan_tree(tmp_path / "one")
    found = compare_trees(tmp_path / "one", tmp_path / "two")
    assert not found, describe(found)
    for name in ("one", "two"):
        done.append(mutate_tree(tmp_path / name, random.Random(8), 600))
    assert done[0] == done[1]
    assert {line.split()[0] for line in done[0]} == {mutation.__name__ for mutation in MUTATIONS}
    # What a mutation makes has the time of the moment.
    found = compare_trees(tmp_path / "one", tmp_path / "two", ignore=("mtime",))
    assert not found, describe(found)
    after = scan_tree(tmp_path / "one")
    assert sum(before.get(path) != after.get(path) for path in before.keys() | after.keys()) > 100
