"""What a restore of some paths selects by bisection is what it selects by reading the whole tree."""

from __future__ import annotations

import random

import pytest

from drkit.errors import IntegrityError
from drkit.operations.find import find_members
from drkit.operations.ls import list_members, listed
from drkit.pipeline.select import Patterns, literal_prefix
from drkit.pipeline.selection import Selection, select_members, select_paths, selected_members
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.format.tree import Member
from drkit.repository.tree_search import TreeSearch
from tests.support.trees import CountingReader, Trees, member, random_tree


@pytest.fixture
def trees(monkeypatch: pytest.MonkeyPatch) -> Trees:
    return Trees(monkeypatch)


def random_pattern(rng: random.Random, tree: list[Member]) -> str:
    """Often a path of the tree as it would be typed, else one that was changed as patterns are."""
    path = rng.choice(tree).path.decode("utf-8", "surrogateescape")
    if rng.random() < 0.4:
        return "/" + path
    if rng.random() < 0.5:
        at = rng.randrange(len(path) + 1)
        path = path[:at] + rng.choice(["*", "**", "?", "[ab]", "\\", "/", " ", "x", "/**/", "!"]) + path[at:]
    return (
        rng.choice(["", "/", "/", "/", "!", "**/", "#", " "])
        + path
        + rng.choice(["", "", "", "", "", "/", "/*", "/**", " ", "*"])
    )


@pytest.mark.parametrize("round_", range(25))
def test_bisection_selects_what_a_full_read_selects(trees: Trees, rng: random.Random, round_: int) -> None:
    tree = random_tree(rng, rng.choice([30, 60, 400]))
    target = trees.store(tree)
    searched = 0
    with CountingReader(trees.repository) as reader:
        for _ in range(80):
            patterns = [random_pattern(rng, tree) for _ in range(rng.choice([1, 1, 2, 3]))]
            try:
                whole = select_members(tree, Patterns(patterns))
            except Exception as error:  # noqa: BLE001 an invalid pattern is the same error, however the tree is read
                with pytest.raises(type(error)):
                    select_paths(reader, target, patterns)
                continue
            selection = select_paths(reader, target, patterns)
            searched += bool(selection.ranges)
            assert (selection.paths, selection.heirs) == (whole.paths, whole.heirs), patterns
            if selection.ranges:
                partly = selected_members(lambda: TreeSearch(reader, target).members(selection.ranges), selection)  # noqa: B023
                assert list(partly) == list(selected_members(lambda: tree, whole)), patterns
            snapshot = Snapshot("1", "", "h", "p", "ok", [target])
            found = [match.entry for match in find_members(trees.repository, [snapshot], patterns[0])]
            alone = Patterns(patterns[:1])
            assert found == [listed(each) for each in tree if alone.match_alone(each.path, directory=each.type == "d")]
    assert searched > 5  # or this test would compare full reads with full reads


@pytest.mark.parametrize("round_", range(5))
def test_ls_shows_what_is_at_and_below_a_path(trees: Trees, rng: random.Random, round_: int) -> None:
    tree = random_tree(rng, 300)
    target = trees.store(tree)
    for each in rng.sample(tree, 40):
        shown = list(list_members(trees.repository, target, each.path.decode("utf-8", "surrogateescape")))
        under = [one for one in tree if not each.path or one.path == each.path or one.path.startswith(each.path + b"/")]
        assert shown == [listed(one) for one in under]


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        ("/a/b", (b"a/b", True)),
        ("a/b", (b"a/b", True)),
        ("/a", (b"a", True)),
        ("/a/", (b"a", True)),
        ("/a/b/  ", (b"a/b", True)),
        ("/a/b*", (b"a/b", False)),
        ("/a/?/c", (b"a/", False)),
        ("/a/[bc]", (b"a/", False)),
        ("/a/\\*", (b"a/", False)),
        ("a/**", (b"a/", False)),
        ("/\udcff/a", (b"\xff/a", True)),
        ("a", None),
        ("a/", None),
        ("*", None),
        ("/*", None),
        ("**/a", None),
        ("!/a/b", None),
        ("#/a", None),
        ("", None),
        ("/", None),
    ],
)
def test_what_the_matches_of_a_pattern_start_with(pattern: str, prefix: tuple[bytes, bool] | None) -> None:
    assert literal_prefix(pattern) == prefix


def select(trees: Trees, tree: list[Member], *patterns: str) -> tuple[Selection, int, int]:
    """The selection, and of how many chunks how many were read."""
    target = trees.store(tree)
    with CountingReader(trees.repository) as reader:
        return select_paths(reader, target, patterns), len(reader.asked), len(target.tree)


def test_one_file_of_many_with_its_parents_and_leader(trees: Trees) -> None:
    tree = [member(b"", "d"), member(b"d", "d"), *(member(b"d/%06d" % number) for number in range(9000))]
    tree.append(member(b"link", "f", b"d/000007"))
    selection, read, chunks = select(trees, tree, "/d/004711", "/link")
    assert selection.paths == {b"", b"d", b"d/004711", b"link"}
    assert selection.heirs == {b"d/000007": b"link"}
    assert read <= 40 < chunks / 10


@pytest.mark.parametrize("patterns", [["004711"], ["/d/004711", "!/d/004711"], ["/d/004711", "x"], ["/nowhere/at/all"]])
def test_patterns_that_need_the_whole_tree(trees: Trees, patterns: list[str]) -> None:
    tree = [member(b"", "d"), member(b"d", "d"), *(member(b"d/%06d" % number) for number in range(9000))]
    selection, read, chunks = select(trees, tree, *patterns)
    assert not selection.ranges
    assert read == chunks


def test_a_link_whose_leader_is_nowhere(trees: Trees) -> None:
    """Only a forged tree has one."""
    tree = [member(b"", "d"), member(b"a"), member(b"link", "f", b"gone")]
    selection, _, _ = select(trees, tree, "/link")
    assert not selection.ranges
    with pytest.raises(IntegrityError, match="link"):
        list(selected_members(lambda: tree, selection))


def test_a_forged_order_hides_nothing_from_a_restore(trees: Trees, rng: random.Random) -> None:
    tree = [member(b"", "d"), *(member(b"%04d" % number) for number in range(300))]
    shuffled = tree[:]
    rng.shuffle(shuffled)
    for number in range(0, 300, 10):
        selection, _, _ = select(trees, shuffled, f"/{number:04d}")
        assert selection.paths == {b"", b"%04d" % number}
