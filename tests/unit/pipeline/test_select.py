"""Patterns against git itself; which members a subset brings along; scans and what they leave out."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from drkit.errors import CaptureFailed, UsageError
from drkit.pipeline.scan import Scan, read_scan
from drkit.pipeline.select import Patterns
from drkit.pipeline.selection import select_members, selected_members
from drkit.pipeline.stream import ReadInto, iterator_readinto
from drkit.repository.format.tree import Member
from drkit.storage.local.mounts import Mount
from tests.support.host_tar import scan_directory, scan_output
from tests.support.torture import make_torture_tree
from tests.support.treecompare import scan_tree

# --- patterns ---------------------------------------------------------------------------------------------------------


# fmt: off
NAMES = (
    b"a", b"b", b"ab", b"a.b", b"cache", b"x.tmp", b".h", b"a b", b"a\nb", b"a\n", b"\xff", b"*", b"!a", b"#", b"a\\",
    b"a ", b"a  ", b" ", b"a\\ ",
)
PIECES = (
    "a", "b", "ab", "a.b", "cache", "x.tmp", ".h", "*", "*", "?", "[ab]", "[!a]", "*.tmp", "a*", "**", "a?b", "*b",
    "a ", "a\\ ", "a\\\\ ",
)
# fmt: on


class GitVolume:
    """A directory that git judges too."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git_dir = root.parent / f"{root.name}.git"
        root.mkdir()
        self._git("init", "--quiet")

    def _git(self, *arguments: str, stdin: bytes = b"", codes: Sequence[int] = (0,)) -> bytes:
        done = subprocess.run(
            ["git", f"--git-dir={self.git_dir}", f"--work-tree={self.root}", *arguments],
            cwd=self.root,
            input=stdin,
            capture_output=True,
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"},
            check=False,
        )
        assert done.returncode in codes, done.stderr
        return done.stdout

    def ignored(self, patterns: Sequence[str], paths: Sequence[bytes]) -> set[bytes]:
        (self.git_dir / "info" / "exclude").write_bytes("".join(f"{line}\n" for line in patterns).encode())
        told = self._git("check-ignore", "--no-index", "-z", "--stdin", stdin=b"\0".join(paths), codes=(0, 1))
        return set(told.split(b"\0")) - {b""}


def matched(patterns: Sequence[str], tree: Sequence[tuple[bytes, bool]]) -> set[bytes]:
    asked = Patterns(patterns)
    return {path for path, directory in tree if asked.match(path, directory=directory)}


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory, seed: int) -> tuple[GitVolume, list[tuple[bytes, bool]]]:
    """A tree of few names in many places, some of them as directories here and as files there."""
    rng = random.Random(seed)
    volume = GitVolume(tmp_path_factory.mktemp("git") / "volume")
    root = os.fsencode(volume.root)
    for _ in range(400):
        path = root + b"/" + b"/".join(rng.choice(NAMES) for _ in range(rng.randrange(1, 5)))
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 bytes
            if rng.random() < 0.3:
                os.mkdir(path)  # noqa: PTH102 bytes
            else:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except (FileExistsError, NotADirectoryError):
            continue
    tree = sorted((path, entry.kind == "directory") for path, entry in scan_tree(volume.root).items() if path)
    assert len(tree) > 150
    return volume, tree


def random_pattern(rng: random.Random) -> str:
    pattern = "/".join(rng.choice(PIECES) for _ in range(rng.choice([1, 1, 1, 2, 2, 3])))
    pattern = rng.choice(["", "", "", "/"]) + pattern + rng.choice(["", "", "", "/", "/*", "/**"])
    return rng.choice(["", "", "", "!"]) + pattern


def test_excludes_mean_what_git_makes_of_them(
    volume: tuple[GitVolume, list[tuple[bytes, bool]]], rng: random.Random
) -> None:
    git, tree = volume
    paths = [path for path, _ in tree]
    for _ in range(250):
        patterns = [random_pattern(rng) for _ in range(rng.randrange(1, 5))]
        assert matched(patterns, tree) == git.ignored(patterns, paths), patterns


@pytest.mark.parametrize(
    "patterns",
    [
        ["a"],
        ["/a"],
        ["a/"],
        ["/a/*", "!/a/b"],
        ["*", "!a"],
        ["*", "!*/", "!*.tmp"],
        ["cache/**"],
        ["**/cache"],
        ["a/**/b"],
        ["**"],
        ["**/*/**/**"],
        ["**/"],
        ["*/"],
        ["*/**"],
        ["**/*"],
        ["/**"],
        ["*.tmp", "!x.tmp"],
        ["a", "!a/b"],
        ["\\!a"],
        ["\\#"],
        ["#"],
        ["\\*"],
        ["a\\ b"],
        ["a b"],
        ["a "],
        ["a /"],
        ["/a /"],
        ["a  /"],
        ["a\\ /"],
        ["a\\  /"],
        ["a \\ /"],
        ["a\\\\ /"],
        ["a\\\\\\ /"],
        [" /"],
        ["  /"],
        ["a / "],
        ["a  "],
        ["a\\ "],
        ["a\\\\ "],
        ["a\\  "],
        ["a \\ "],
        ["*", "!a /"],
        [""],
        ["a\\\\"],
        ["[a-c]"],
        ["[^a]"],
        ["a?b"],
        ["?"],
        ["*b"],
        ["a*"],
        ["/"],
        ["!/"],
        ["//a"],
        ["a//b"],
    ],
)
def test_patterns_worth_a_thought(volume: tuple[GitVolume, list[tuple[bytes, bool]]], patterns: list[str]) -> None:
    git, tree = volume
    assert matched(patterns, tree) == git.ignored(patterns, [path for path, _ in tree])


@pytest.mark.parametrize("pattern", ["!", "a**b/\\", "[z-a]", "a/[9-0]/", "x["])
def test_an_invalid_pattern_is_an_error(pattern: str) -> None:
    with pytest.raises(UsageError, match="invalid pattern"):
        Patterns([pattern])


def test_a_pattern_names_a_directory_or_all_below_it() -> None:
    tree = [(b"cache", True), (b"cache-2", False), (b"cache/a", False), (b"cache/d", True), (b"cache/d/b", False)]
    assert matched(["cache"], tree) == {b"cache", b"cache/a", b"cache/d", b"cache/d/b"}
    assert matched(["cache/**"], tree) == {b"cache/a", b"cache/d", b"cache/d/b"}
    assert matched(["cache/*"], tree) == {b"cache/a", b"cache/d", b"cache/d/b"}
    alone = Patterns(["cache"])
    assert [path for path, directory in tree if alone.match_alone(path, directory=directory)] == [b"cache"]


def test_the_root_never_matches() -> None:
    for pattern in ("*", "**", "/", "/**", ".", "./", "/*"):
        asked = Patterns([pattern])
        assert not asked.match(b"", directory=True)
        assert not asked.match_alone(b"", directory=True)


def test_no_patterns() -> None:
    assert not Patterns([])
    assert not Patterns(["", "# a comment"])
    assert Patterns(["a"])


# --- scans ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torture(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    root = tmp_path_factory.mktemp("torture")
    make_torture_tree(root, random.Random(seed), many=50, huge_files=False)
    return root


def nanoseconds(text: bytes) -> int:
    """Read a time of find: the nanoseconds count forward from the second, also before 1970; a tenth digit is zero."""
    seconds, _, fraction = text.partition(b".")
    assert len(fraction) == 10
    return int(seconds) * 10**9 + int(fraction[:9])


def test_a_scan_tells_what_lstat_tells(torture: Path) -> None:
    scan = scan_directory(torture)
    tree = scan_tree(torture)
    sockets = {path for path, entry in tree.items() if entry.kind == "socket"}
    assert [entry.path for entry in scan] == sorted(tree.keys() - sockets)
    assert len(scan.sockets) == len(sockets) > 0
    directory = os.open(torture, os.O_RDONLY)
    for entry in scan:
        status = os.lstat(entry.path or b".", dir_fd=directory)
        _, mode, uid, gid, size, mtime, ctime, inode, links = entry.stat.split(b" ")
        assert (int(mode, 8), int(uid), int(gid)) == (status.st_mode & 0o7777, status.st_uid, status.st_gid)
        assert (int(size), int(inode), int(links)) == (status.st_size, status.st_ino, status.st_nlink)
        assert (nanoseconds(mtime), nanoseconds(ctime)) == (status.st_mtime_ns, status.st_ctime_ns)
        assert int(entry.device) == status.st_dev
    os.close(directory)


def in_pieces(data: bytes, rng: random.Random) -> ReadInto:
    def pieces() -> Iterator[bytes]:
        position = 0
        while position < len(data):
            end = position + rng.randrange(1, 200)
            yield data[position:end]
            position = end

    return iterator_readinto(pieces())


def test_a_scan_comes_in_pieces(torture: Path, rng: random.Random) -> None:
    output = scan_output(torture)
    scan = read_scan(in_pieces(output, rng), Patterns([]), what="volume x", full=True)
    assert list(scan) == list(scan_directory(torture))


def test_paths_alone_are_those_of_the_entries(torture: Path) -> None:
    scan = scan_directory(torture)
    assert list(scan.paths()) == [entry.path for entry in scan]
    stock = scan_of(b"mounts\n\0.\0./a\0./a/b c\0end 0\0", full=False)
    assert list(stock.paths()) == [b"", b"a", b"a/b c"] == [entry.path for entry in stock]


def test_what_follows_the_scan_is_left_alone(torture: Path) -> None:
    output = scan_output(torture)
    source = iterator_readinto([output, b"a tar"])
    read_scan(source, Patterns([]), what="volume x", full=True)
    rest = memoryview(bytearray(100))
    assert bytes(rest[: source(rest)]) == b"a tar"


def test_a_scan_that_breaks_off(torture: Path, rng: random.Random) -> None:
    output = scan_output(torture)
    cuts = {rng.randrange(len(output)) for _ in range(50)} | {len(output) - cut for cut in range(2, 9)} | {0}
    for cut in cuts:
        with pytest.raises(CaptureFailed):
            read_scan(iterator_readinto([output[:cut]]), Patterns([]), what="volume x", full=True)


def test_excluded_paths_are_not_in_the_scan(torture: Path) -> None:
    everything = [entry.path for entry in scan_directory(torture)]
    kept = [entry.path for entry in scan_directory(torture, ["/names", "many/*", "*.none"])]
    assert kept == [p for p in everything if p != b"names" and not p.startswith((b"names/", b"many/"))]
    assert b"many" in kept


def scan_of(output: bytes, *, full: bool = True, exclude: Sequence[str] = ()) -> Scan:
    return read_scan(iterator_readinto([output]), Patterns(exclude), what="volume x", full=full)


MOUNTS = b"mounts\n36 35 8:1 /data /volume rw,relatime master:1 - ext4 /dev/sda1 rw\n\0\0"
ROOT = b"\0d 755 0 0 0 1.0 1.0 1 2\x0042\x008\0\0"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (b"", "before its end"),
        (MOUNTS + ROOT, "before its end"),
        (MOUNTS + ROOT + b"end 0\0", "before its end"),
        (MOUNTS + ROOT + b"end 0" + ROOT, "before its end"),  # a file of that name
        (MOUNTS + b"end 1\0\0", "find failed with status 1"),
        (MOUNTS + b"end 0\0\0", "did not report its root"),
        (MOUNTS + b"a" + ROOT + b"end 0\0\0", "did not report its root"),
        (MOUNTS + ROOT + b"garbage\0\0end 0\0\0", "garbled"),
        (ROOT + b"end 0\0\0", "garbled"),
        (b"mounts\nno mount\n\0\0" + ROOT + b"end 0\0\0", "garbled: b'no mount' is not a mount"),
        (b"end 0\0\0", "garbled"),
    ],
)
def test_scans_that_cannot_be_used(output: bytes, message: str) -> None:
    with pytest.raises(CaptureFailed, match=message):
        scan_of(output)


def test_find_met_something_unreadable() -> None:
    scan = scan_of(MOUNTS + ROOT + b"end 1\0\0")
    assert not scan.complete
    assert len(scan) == 1


def test_a_scan_may_come_in_any_pieces(rng: random.Random) -> None:
    paths = sorted([b"", b"end 0", b"a b", b"a\nend 0", b"a/s b", b"s"])
    output = MOUNTS + b"".join(path + ROOT for path in paths) + b"x" + ROOT.replace(b"d", b"s") + b"end 0\0\0"
    for _ in range(200):
        cuts = sorted(rng.choices(range(len(output)), k=rng.randrange(12)))
        pieces = [output[start:end] for start, end in zip([0, *cuts], [*cuts, len(output)], strict=True)]
        scan = read_scan(iterator_readinto(filter(None, pieces)), Patterns([]), what="volume x", full=True)
        assert [entry.path for entry in scan] == paths
        assert scan.mounts == [Mount(os.makedev(8, 1), b"/data", b"/volume", "ext4", b"/dev/sda1")]
        assert {(entry.stat, entry.device) for entry in scan} == {(b"d 755 0 0 0 1.0 1.0 1 2", b"42")}
        assert scan.sockets == ["x"]


def test_a_stock_scan_knows_paths_only() -> None:
    output = b"".join(
        path + b"\0" for path in [b"mounts\n", b".", b"./d", b"./cache", b"./cache/a\nb", b"./d/cache", b"end 0"]
    )
    scan = scan_of(output, full=False)
    assert [(entry.path, entry.stat) for entry in scan] == [
        (path, b"") for path in [b"", b"cache", b"cache/a\nb", b"d", b"d/cache"]
    ]
    # It cannot tell an empty directory from a file, but one that holds something shows.
    scan = scan_of(output, full=False, exclude=["cache/"])
    assert [entry.path for entry in scan] == [b"", b"d", b"d/cache"]


# --- subsets ----------------------------------------------------------------------------------------------------------


def member(path: bytes, kind: str, leader: bytes = b"") -> Member:
    return Member(path, f"{kind} 644 0 0 0 1.0 1.0 1 1".encode(), leader, b"", path, True, b"")


TREE = [
    member(b"", "d"),
    member(b"a", "d"),
    member(b"a/1", "f"),
    member(b"a/b", "d"),
    member(b"a/b/2", "f", b"a/1"),
    member(b"a/b/3", "f", b"a/1"),
    member(b"c", "f"),
    member(b"d", "d"),
    member(b"d/e", "d"),
    member(b"d/x", "l"),
]


def subset(*patterns: str) -> list[tuple[bytes, bytes, bytes]]:
    """Path, leader, and whose content it is."""
    selection = select_members(TREE, Patterns(patterns))
    return [(item.path, item.leader, item.member.path) for item in selected_members(lambda: TREE, selection)]


def test_everything() -> None:
    items = list(selected_members(lambda: TREE, None))
    assert [item.member for item in items] == TREE
    assert all(item.as_recorded for item in items)


def test_parents_come_along() -> None:
    assert [path for path, _, _ in subset("d/x")] == [b"", b"d", b"d/x"]
    assert [path for path, _, _ in subset("/a/b/2")] == [b"", b"a", b"a/b", b"a/b/2"]
    assert [path for path, _, _ in subset("/d")] == [b"", b"d", b"d/e", b"d/x"]


def test_nothing_matches() -> None:
    assert select_members(TREE, Patterns(["nowhere"])).paths == frozenset()
    assert subset("nowhere") == []


def test_a_link_inherits_the_content_of_a_leader_that_stays_behind() -> None:
    assert subset("a/b/")[2:] == [
        (b"a/b", b"", b"a/b"),
        (b"a/b/2", b"", b"a/1"),
        (b"a/b/3", b"a/b/2", b"a/b/3"),
    ]
    assert subset("3")[-1] == (b"a/b/3", b"", b"a/1")
    assert subset("1", "3")[-1] == (b"a/b/3", b"a/1", b"a/b/3")


def random_tree(rng: random.Random) -> list[Member]:
    files: set[bytes] = set()
    directories: set[bytes] = {b""}
    for _ in range(rng.randrange(1, 60)):
        parts = [rng.choice([b"a", b"b", b"a-", b"c"]) for _ in range(rng.randrange(1, 5))]
        above = {b"/".join(parts[:depth]) for depth in range(1, len(parts))}
        path = b"/".join(parts)
        if path not in directories and not above & files:
            directories |= above
            files.add(path)
    tree: list[Member] = []
    leaders: list[bytes] = []
    for path in sorted(files | directories):
        leader = rng.choice(leaders) if leaders and path in files and rng.random() < 0.5 else b""
        tree.append(member(path, "f" if path in files else "d", leader))
        if path in files and not leader:
            leaders.append(path)
    return tree


def test_random_subsets_are_trees_of_their_own(rng: random.Random) -> None:
    """Whatever is chosen: parents before children, each link after its leader, each content once, no path twice."""
    for _ in range(500):
        tree = random_tree(rng)
        content = {m.path: m.leader or m.path for m in tree}
        selection = select_members(tree, Patterns([rng.choice(["a", "b*", "/a/*", "c", "?/b", "*b"])]))
        items = list(selected_members(lambda tree=tree: tree, selection))  # type: ignore[misc]
        written: set[bytes] = set()
        for item in items:
            assert item.path not in written
            assert not item.path or item.path.rpartition(b"/")[0] in written
            assert content[item.member.path] == content[item.path]
            if item.leader:
                assert item.leader in written
                assert content[item.leader] == content[item.path]
            else:
                assert not item.member.leader
            written.add(item.path)
        contents = [item.member.path for item in items if not item.leader]
        assert len(contents) == len(set(contents))
