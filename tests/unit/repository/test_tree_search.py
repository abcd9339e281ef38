"""Bisection in aligned trees finds what a full read finds, reads few chunks, and believes no record."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from drkit.errors import IntegrityError
from drkit.repository.format.snapshot import Target
from drkit.repository.format.tree import Member, encode_member
from drkit.repository.tree_search import Range, TreeSearch, at, below, is_searchable, members_in, starting_with
from tests.support.trees import CountingReader, Trees, member, random_tree


@pytest.fixture
def trees(monkeypatch: pytest.MonkeyPatch) -> Trees:
    return Trees(monkeypatch)


def within(members: Sequence[Member], ranges: Sequence[Range]) -> list[Member]:
    return [each for each in members if any(first <= each.path < end for first, end in ranges)]


def found(trees: Trees, target: Target, *ranges: Range) -> list[Member]:
    with CountingReader(trees.repository) as reader:
        return list(members_in(reader, target, ranges))


def test_ranges() -> None:
    paths = [b"", b"a", b"a\x01", b"a-", b"a/", b"a/b", b"a/\xff", b"a0", b"b"]
    assert [path for path in paths if at(b"a").first <= path < at(b"a").end] == [b"a"]
    assert [path for path in paths if below(b"a").first <= path < below(b"a").end] == [b"a/", b"a/b", b"a/\xff"]
    for prefix in (b"a", b"a/", b"a/\xff", b"\xfe\xff\xff"):
        first, end = starting_with(prefix)
        assert all((first <= path < end) == path.startswith(prefix) for path in [*paths, prefix, prefix + b"\xff" * 9])


@pytest.mark.parametrize("round_", range(20))
def test_a_search_finds_what_a_full_read_finds(trees: Trees, rng: random.Random, round_: int) -> None:
    tree = random_tree(rng, rng.choice([1, 2, 30, 400]))
    target = trees.store(tree)
    assert is_searchable(target)
    paths = [each.path for each in tree]
    with CountingReader(trees.repository) as reader:
        for _ in range(60):
            ranges = []
            for _ in range(rng.randrange(1, 5)):
                path = rng.choice(paths) + rng.choice([b"", b"", b"x", b"/"])
                ranges.append(
                    rng.choice([at(path), below(path or b"a"), starting_with(b"a" + path), Range(path, b"b")])
                )
            wanted = within(tree, ranges)
            assert list(TreeSearch(reader, target).members(ranges)) == wanted, ranges
            assert list(members_in(reader, target, ranges)) == wanted, ranges


def test_a_search_reads_a_few_chunks(trees: Trees) -> None:
    tree = [member(b"", "d"), *(member(b"%06d" % number) for number in range(20_000))]
    target = trees.store(tree)
    assert len(target.tree) > 1000
    with CountingReader(trees.repository) as reader:
        assert [each.path for each in members_in(reader, target, [at(b"012345")])] == [b"012345"]
        assert reader.asked.total() <= 15
        assert max(reader.asked.values()) <= 2
    with CountingReader(trees.repository) as reader:
        assert len(list(members_in(reader, target, [starting_with(b"01")]))) == 10_000
        assert reader.asked.total() < 0.6 * len(target.tree)


def test_what_is_not_found_is_looked_for_everywhere(trees: Trees) -> None:
    target = trees.store([member(b"%04d" % number) for number in range(500)])
    with CountingReader(trees.repository) as reader:
        assert list(members_in(reader, target, [at(b"0300x")])) == []
        assert len(reader.asked) == len(target.tree)


def test_a_target_that_does_not_say_that_it_is_aligned_is_read_whole(trees: Trees) -> None:
    tree = [member(b"%04d" % number) for number in range(500)]
    target = trees.store(tree)
    image = Target("image", "v", tree=target.tree, aligned=True)
    unknown = Target("later", "v", tree=target.tree, aligned=True)
    before = Target("volume", "v", tree=target.tree)
    for each in (image, unknown, before):
        assert not is_searchable(each)
        assert found(trees, each, at(b"0300")) == [tree[300]]


@pytest.mark.parametrize("round_", range(10))
def test_a_tree_that_is_cut_anywhere_but_says_aligned(trees: Trees, rng: random.Random, round_: int) -> None:
    tree = [member(b"%04d" % number) for number in range(300)]
    stream = b"".join(map(encode_member, tree))
    cuts = sorted(rng.sample(range(1, len(stream)), 40))
    target = trees.store_pieces(
        [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    )
    for number in range(0, 300, 7):
        assert found(trees, target, at(tree[number].path)) == [tree[number]]


@pytest.mark.parametrize("round_", range(10))
def test_a_path_in_a_tree_without_order_is_found(trees: Trees, rng: random.Random, round_: int) -> None:
    tree = [member(b"%04d" % number) for number in range(300)]
    shuffled = tree[:]
    for _ in range(rng.choice([1, 5, 300])):
        one, other = rng.randrange(300), rng.randrange(300)
        shuffled[one], shuffled[other] = shuffled[other], shuffled[one]
    target = trees.store(shuffled)
    for each in tree:
        assert found(trees, target, at(each.path)) == [each]


def test_disorder_behind_what_was_shown_already_is_an_error(trees: Trees) -> None:
    """A part of a listing was passed on: the rest must not be left out in silence."""
    tree = [member(b"%04d" % number) for number in range(300)]
    moved = tree.pop(150)
    target = trees.store([*tree, moved])
    with CountingReader(trees.repository) as reader, pytest.raises(IntegrityError, match="not in the order"):
        list(members_in(reader, target, [starting_with(b"0")]))


def test_chunks_that_hold_nothing(trees: Trees) -> None:
    records = [encode_member(member(b"%04d" % number)) for number in range(3)]
    for pieces in ([b"\xc1"], [records[0], b"\xc0", records[1]], [records[0][:5], records[0][5:], records[1]]):
        target = trees.store_pieces(pieces)
        try:
            assert [each.path for each in found(trees, target, at(b"0001"))] == [b"0001"]
        except IntegrityError as error:
            assert "the tree of volume v" in error.message
    assert found(trees, Target("volume", "v", aligned=True), at(b"a")) == []
