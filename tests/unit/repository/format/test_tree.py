"""Trees and snapshot records: what is written is read, damaged or forged is refused, newer is passed over."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drkit.errors import IntegrityError
from drkit.repository.format.chunker import TREE_CHUNKS
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.names import display_path, new_run_id
from drkit.repository.format.snapshot import (
    NAMES_KEPT,
    NameList,
    format_time,
    parse_time,
)
from drkit.repository.format.tree import EXTENT, Member, TreeWriter, decode_members, encode_member

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


def test_a_large_tree_is_cut_and_comes_back(rng: random.Random) -> None:
    stored: dict[bytes, bytes] = {}
    order: list[bytes] = []

    def put(data: bytes) -> bytes:
        assert 0 < len(data) <= TREE_CHUNKS.maximum
        name = keyed_digest(bytes(32), data)
        stored[name] = data
        order.append(name)
        return name

    tree = [example(b"%09d" % number, rng.randbytes(40)) for number in range(60_000)]
    writer = TreeWriter(put)
    for member in tree:
        writer.add(encode_member(member))
    assert len(order) > 3  # in bounded memory: chunks leave before the end
    assert writer.finish() == order
    assert list(decode_members((stored[name] for name in order), source="volume v")) == tree
    assert TreeWriter(put).finish() == []


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
