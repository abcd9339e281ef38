"""Trees and snapshot records: what is written is read, damaged or forged is refused, newer is passed over."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone
from itertools import accumulate, pairwise

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drkit.errors import IntegrityError
from drkit.repository.format.chunker import TREE_CHUNKS, cut_lengths
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.names import display_path, new_run_id
from drkit.repository.format.snapshot import (
    NAMES_KEPT,
    NameList,
    format_time,
    parse_time,
)
from drkit.repository.format.tree import EXTENT, LONGEST, Member, TreeWriter, decode_members, encode_member

NOW = datetime(2025, 3, 9, 1, 2, 3, 456789, tzinfo=UTC)

members = st.builds(
    Member,
    path=st.binary(max_size=300),
    stat=st.binary(max_size=100),
    leader=st.binary(max_size=50),
    symlink=st.binary(max_size=50),
    digest=st.binary(min_size=32, max_size=32),
    settled=st.booleans(),
    extents=st.lists(st.binary(min_size=40, max_size=40), max_size=5).map(b"".join),
)


def example(path: bytes = b"a", extents: bytes = b"") -> Member:
    return Member(path, b"f 644 0 0 5 1.5 1.5 7 1", b"", b"", bytes(32), True, extents)


# --- trees ------------------------------------------------------------------------------------------------------------


@given(st.lists(members, max_size=20), st.data())
def test_members_survive_any_division_into_chunks(tree: list[Member], data: st.DataObject) -> None:
    stream = b"".join(map(encode_member, tree))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    bounds = [0, *cuts, len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(bounds)]
    assert list(decode_members(chunks, source="volume v")) == tree


class Cut:
    """A tree as TreeWriter stores it, and as it was cut before: wherever the content says."""

    def __init__(self, tree: list[Member]) -> None:
        records = [encode_member(member) for member in tree]
        self.chunks: list[bytes] = []
        writer = TreeWriter(self._put)
        for record in records:
            writer.add(record)
        self.early = len(self.chunks)
        assert writer.finish() == [keyed_digest(bytes(32), chunk) for chunk in self.chunks]
        self.aligned = writer.aligned
        stream = b"".join(records)
        assert b"".join(self.chunks) == stream
        ends = accumulate(cut_lengths(memoryview(stream), TREE_CHUNKS, final=True), initial=0)
        self.as_before = [stream[start:end] for start, end in pairwise(ends)]

    def _put(self, data: bytes) -> bytes:
        self.chunks.append(data)
        return keyed_digest(bytes(32), data)


def tree_of(rng: random.Random, members: int) -> list[Member]:
    return [example(b"%09d" % number, rng.randbytes(40)) for number in range(members)]


def test_a_large_tree_is_cut_at_record_ends_and_comes_back(rng: random.Random) -> None:
    tree = tree_of(rng, 60_000)
    cut = Cut(tree)
    assert cut.early > 3  # in bounded memory: chunks leave before the end
    longest = max(len(encode_member(member)) for member in tree)
    assert all(0 < len(chunk) < TREE_CHUNKS.maximum + longest for chunk in cut.chunks)
    assert cut.aligned
    assert [member for chunk in cut.chunks for member in decode_members([chunk], source="volume v")] == tree
    assert Cut([]).chunks == []


def test_what_a_change_of_a_tree_stores_again(rng: random.Random) -> None:
    """Cutting at record ends must not store more: equal stretches of a changed tree stay equal chunks."""
    tree = tree_of(rng, 40_000)
    before = Cut(tree)
    changes: dict[str, list[Member]] = {}
    for number in range(5):
        at = rng.randrange(len(tree))
        changes[f"insert {number} at {at}"] = [*tree[:at], example(b"%09d.new" % at, rng.randbytes(40)), *tree[at:]]
        changes[f"remove {number} at {at}"] = [*tree[:at], *tree[at + 1 :]]
        changes[f"change {number} at {at}"] = [*tree[:at], example(tree[at].path, rng.randbytes(80)), *tree[at + 1 :]]
        changes[f"remove 500 {number} at {at}"] = [*tree[:at], *tree[at + 500 :]]
    new = old = 0
    for what, changed in changes.items():
        after = Cut(changed)
        stored = len(set(after.chunks) - set(before.chunks))
        assert stored <= 5, what
        new += stored
        old += len(set(after.as_before) - set(before.as_before))
    assert new <= 1.25 * old


def test_a_record_too_long_for_a_chunk_is_cut_inside(rng: random.Random) -> None:
    """Files of more than about 100 GB have such records. The chunks after them start at records again."""
    around = tree_of(rng, 10_000)
    fits = example(b"%09d.fits" % 5000, rng.randbytes(EXTENT.size * 78_000))
    cut = Cut([*around[:5000], fits, *around[5000:]])
    assert cut.aligned
    assert max(map(len, cut.chunks)) <= LONGEST
    huge = example(b"%09d.huge" % 5000, rng.randbytes(EXTENT.size * 250_000))
    tree = [*around[:5000], huge, *around[5000:]]
    cut = Cut(tree)
    assert not cut.aligned
    assert max(map(len, cut.chunks)) <= LONGEST
    assert list(decode_members(cut.chunks, source="volume v")) == tree
    last = list(decode_members(cut.chunks[-1:], source="volume v"))
    assert last == tree[-len(last) :]


def test_a_tree_is_whole_or_an_error() -> None:
    stream = encode_member(example()) + encode_member(example(b"b"))
    whole = {0, len(stream) // 2, len(stream)}
    for cut in range(len(stream) + 1):
        if cut in whole:
            assert len(list(decode_members([stream[:cut]], source="volume v"))) == cut * 2 // len(stream)
        else:
            with pytest.raises(IntegrityError, match="the tree of volume v"):
                list(decode_members([stream[:cut]], source="volume v"))


@pytest.mark.parametrize(
    "record",
    [
        7,
        "text",
        None,
        [],
        list(example())[:6],
        [*example(), b"one more"],
        {"path": b""},
        ["a", *list(example())[1:]],
        [*list(example())[:5], 1, b""],
        [*list(example())[:6], b"no whole number of extents"],
        [*list(example())[:6], None],
        msgpack.Timestamp(0),
    ],
)
def test_records_that_are_no_members(record: object) -> None:
    """A tree authenticates, but a host that holds the meta key could write what it likes."""
    with pytest.raises(IntegrityError, match="the tree of volume v"):
        list(decode_members([msgpack.packb(record, use_bin_type=True)], source="volume v"))


def test_random_bytes_are_no_tree(rng: random.Random) -> None:
    stream = b"".join(encode_member(example(b"%d" % number, bytes(80))) for number in range(20))
    for _ in range(3000):
        damaged = bytearray(stream)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            for member in decode_members([bytes(damaged)], source="volume v"):
                assert list(member.chunk_ids()) == [chunk for chunk, _, _ in EXTENT.iter_unpack(member.extents)]
        except IntegrityError:
            continue


def test_what_a_member_tells_of_itself() -> None:
    extents = EXTENT.pack(b"a" * 32, 10, 20) + EXTENT.pack(b"b" * 32, 0, 12)
    member = example(extents=extents)
    assert member.type == "f"
    assert member.raw_size == 32
    assert list(member.chunk_ids()) == [b"a" * 32, b"b" * 32]
    assert Member(b"", b"", b"", b"", b"", False, b"").type == ""


# --- names and times --------------------------------------------------------------------------------------------------


def test_run_ids_sort_by_time() -> None:
    zone = timezone(timedelta(hours=5, minutes=45))
    assert new_run_id(NOW, b"\xab\xcd\xef\x01") == "20250309t010203z-abcdef01"
    assert new_run_id(NOW.astimezone(zone), b"\0\0\0\0") == "20250309t010203z-00000000"
    assert new_run_id(NOW, b"\xff" * 4) < new_run_id(NOW + timedelta(seconds=1), b"\0" * 4)


def test_times_are_utc() -> None:
    assert format_time(NOW) == "2025-03-09T01:02:03.456789Z"
    assert format_time(NOW.astimezone(timezone(timedelta(hours=-3)))) == format_time(NOW)
    assert parse_time(format_time(NOW)) == NOW


def test_lists_of_names_count_all_and_keep_some() -> None:
    listing = NameList.of(str(number) for number in range(NAMES_KEPT + 5))
    assert (listing.count, len(listing.names)) == (NAMES_KEPT + 5, NAMES_KEPT)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"", "."),
        (b"a b", "a b"),
        ("\u00e9".encode(), "\u00e9"),
        (b"\xff", "\\xff"),
        (b"a\nb\x1b[0m", "a\\x0ab\\x1b[0m"),
        (b"back\\slash", "back\\\\slash"),
        ("\u202e\u2028".encode(), "\\xe2\\x80\\xae\\xe2\\x80\\xa8"),
    ],
)
def test_names_as_text(path: bytes, shown: str) -> None:
    assert display_path(path) == shown


@given(st.binary(max_size=50))
def test_shown_names_are_printable_and_differ(path: bytes) -> None:
    shown = display_path(path)
    assert shown.isprintable()
    assert "\n" not in shown
    if path:
        back = shown.encode().replace(b"\\\\", b"\\x5c")
        parts = back.split(b"\\x")
        assert parts[0] + b"".join(bytes.fromhex(part[:2].decode()) + part[2:] for part in parts[1:]) == path
