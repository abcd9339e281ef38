"""Snapshot records: what is written is read, whatever is odd is refused, newer is passed over but its trees are not."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from drkit.errors import IntegrityError, RepositoryError
from drkit.repository.format.names import plain_text
from drkit.repository.format.record import copied_payload, decode_snapshot, encode_snapshot, tombstone
from drkit.repository.format.sealing import SigningKey
from drkit.repository.format.snapshot import (
    NAME_BYTES_KEPT,
    NAMES_KEPT,
    Documents,
    NameList,
    Previous,
    Snapshot,
    Target,
    format_time,
    stored_trees,
    tree_chunk_ids,
)

NOW = datetime(2025, 3, 9, 1, 2, 3, 456789, tzinfo=UTC)
KEY = SigningKey(bytes(range(32)))
REPOSITORY = b"r" * 16


def record(run_id: str = "20250309t010203z-00000000", **changes: Any) -> Snapshot:
    target = Target(
        "volume",
        "shop_data",
        started=format_time(NOW),
        files=3,
        torn=NameList.of(["a"]),
        lost=["words"],
        source={"Driver": "local", "Options": None, "Labels": {"a": "\u00e9"}},
        tree=["ab" * 32],
        aligned=True,
    )
    fields: dict[str, Any] = {"host": "h", "policy": "p", "status": "ok", "targets": [target]} | changes
    return Snapshot(run_id, format_time(NOW), **fields)


def test_a_record_comes_back() -> None:
    snapshot = record(policy_text="version: 1\n", helper={"tree": ["cd" * 32]})
    assert decode_snapshot(encode_snapshot(snapshot), source="snapshots/x") == snapshot
    assert tree_chunk_ids(snapshot.targets[0]) == [b"\xab" * 32]
    assert snapshot.target("volume", "shop_data") is snapshot.targets[0]
    assert snapshot.target("image", "shop_data") is None


def changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    fields = json.loads(encode_snapshot(record()))
    change(fields)
    return json.dumps(fields).encode()


def add_fields(fields: dict[str, Any]) -> None:
    fields["later"] = {"a": 1}
    fields["targets"][0]["later"] = [1]
    fields["targets"][0]["torn"]["later"] = "x"
    fields["helper"] = {"later": 1}


def test_fields_that_this_version_does_not_know_are_passed_over() -> None:
    snapshot = decode_snapshot(changed(add_fields), source="snapshots/x")
    assert snapshot is not None
    assert snapshot.targets == record().targets


def test_fields_that_a_record_need_not_have() -> None:
    def remove(fields: dict[str, Any]) -> None:
        target = fields["targets"][0]
        fields["targets"][0] = {key: target[key] for key in ("kind", "name", "tree")}
        assert fields.keys() == {"id", "time", "host", "policy", "status", "targets"}  # empty ones are left out

    snapshot = decode_snapshot(changed(remove), source="snapshots/x")
    assert snapshot is not None
    assert snapshot.targets == [Target("volume", "shop_data", tree=["ab" * 32])]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"7",
        b"[" * 100_000,
        changed(lambda fields: fields.pop("time")),
        changed(lambda fields: fields.update(time="2025-03-09T01:02:03")),
        changed(lambda fields: fields.update(time="2025-03-09T01:02:03+01:00")),
        changed(lambda fields: fields.update(time="yesterday")),
        changed(lambda fields: fields.update(time="2025-03-09\x1b01:02:03Z")),
        changed(lambda fields: fields.update(time="2025-03-09\n01:02:03Z")),
        changed(lambda fields: fields.update(time="2025-03-09\u202e01:02:03Z")),
        changed(lambda fields: fields.update(time="2025-03-09\ud80001:02:03Z")),
        changed(lambda fields: fields.update(time="20250309T010203Z")),
        changed(lambda fields: fields.update(time=5)),
        changed(lambda fields: fields.update(targets={})),
        changed(lambda fields: fields.update(targets=["volume"])),
        changed(lambda fields: fields["targets"].append(None)),
        changed(lambda fields: fields["targets"][0].pop("kind")),
        changed(lambda fields: fields["targets"][0].update(torn=[])),
        changed(lambda fields: fields["targets"][0].update(tree="ab")),
        changed(lambda fields: fields["targets"][0].update(tree=["xy" * 32])),
        changed(lambda fields: fields["targets"][0].update(tree=["ab"])),
        changed(lambda fields: fields["targets"][0].update(tree=[5])),
        changed(lambda fields: fields.update(helper={"tree": ["xy"]})),
        changed(lambda fields: fields.update(helper=[])),
    ],
)
def test_payloads_that_are_no_record(payload: bytes) -> None:
    with pytest.raises(IntegrityError, match="snapshots/x is not a snapshot record") as caught:
        decode_snapshot(payload, source="snapshots/x")
    assert caught.value.object_name == "snapshots/x"


# --- what no field may be


def a_target(**changes: Any) -> bytes:
    return changed(lambda fields: fields["targets"][0].update(changes))


@pytest.mark.parametrize(
    "payload",
    [
        changed(lambda fields: fields.update(time="0001-01-01T00:00:00Z")),
        changed(lambda fields: fields.update(time="9999-12-31T23:59:59Z")),
        changed(lambda fields: fields.update(time="1969-12-31T23:59:59Z")),
        changed(lambda fields: fields.update(finished="soon")),
        changed(lambda fields: fields.update(host="web\x1b[2J")),
        changed(lambda fields: fields.update(host="")),
        changed(lambda fields: fields.update(policy="two\nlines")),
        changed(lambda fields: fields.update(policy=["shop"])),
        changed(lambda fields: fields.update(id="../../config")),
        changed(lambda fields: fields.update(drkit="\x9b31m")),
        changed(lambda fields: fields.update(compression=3)),
        changed(lambda fields: fields.update(requires="none")),
        changed(lambda fields: fields.update(requires=[7])),
        changed(lambda fields: fields.update(retention=[])),
        changed(lambda fields: fields.update(unprotected={"volume": -1})),
        changed(lambda fields: fields.update(documents=["ab" * 32])),
        changed(lambda fields: fields.update(documents={"tree": ["AB" * 32]})),
        changed(lambda fields: fields.update(via="a")),
        changed(lambda fields: fields["targets"].append(fields["targets"][0])),
        a_target(name="x\u202e"),
        a_target(name="\ud800"),
        a_target(name="n" * 5000),
        a_target(name=3),
        a_target(kind=None),
        a_target(status=""),
        a_target(status=[]),
        a_target(error=5),
        a_target(error="\x1b]0;title\x07"),
        a_target(error="e" * 100_000),
        a_target(files="3"),
        a_target(files=True),
        a_target(files=-1),
        a_target(files=1.5),
        a_target(bytes=2**60),
        a_target(seconds="1"),
        a_target(started="2025-03-09"),
        a_target(torn={"count": "x"}),
        a_target(torn={"names": ["\x07"]}),
        a_target(lost="words"),
        a_target(exclude={}),
        a_target(source=[]),
        a_target(trusted_xattrs="yes"),
        a_target(aligned="yes"),
        a_target(tree=["  " + "ab" * 31]),
        a_target(tree={"0": "ab" * 32}),
        a_target(later={"deep": [{"tree": ["xy"]}]}),
        encode_snapshot(record()).replace(b'"files":3', b'"files":NaN'),
        encode_snapshot(record()).replace(b'"files":3', b'"seconds":1e999'),
        encode_snapshot(record()) + b"\n{}\n{}",
        encode_snapshot(record()) + b"\n[]",
        encode_snapshot(record()) + b'\n{"signature": "00"}',
        encode_snapshot(record()) + b'\n{"copy": {"id": "../x", "via": []}}',
    ],
)
def test_odd_fields_make_a_record_damaged(payload: bytes) -> None:
    with pytest.raises(IntegrityError, match="snapshots/x is not a snapshot record") as caught:
        decode_snapshot(payload, source="snapshots/x")
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("changes", [{"host": "\x1b"}, {"host": ""}, {"finished": "now"}, {"requires": ["a\nb"]}])
def test_nothing_is_written_that_would_not_be_read(changes: dict[str, Any]) -> None:
    with pytest.raises(RepositoryError, match=next(iter(changes))):
        encode_snapshot(record(**changes))


def test_names_never_size_a_record() -> None:
    many = NameList.of(["n"] * 5000)
    assert (many.count, len(many.names)) == (5000, NAMES_KEPT)
    long = NameList.of(["\u00e9" * 4000] * 100)
    assert long.count == 100
    assert 0 < sum(len(name.encode()) for name in long.names) <= NAME_BYTES_KEPT


@pytest.mark.parametrize(
    "text", ["\x1b[31mred\x07", "half \ud800", "two\nlines\tand a tab", "e" * 100_000, "\x00" * 5000]
)
def test_any_error_can_be_recorded(text: str) -> None:
    snapshot = record()
    snapshot.targets[0].error = plain_text(text)
    assert len(plain_text(text)) <= 4096
    assert decode_snapshot(encode_snapshot(snapshot), source="snapshots/x") == snapshot


# --- trees, wherever they are


def test_trees_in_fields_that_this_version_does_not_know_count_too() -> None:
    def add(fields: dict[str, Any]) -> None:
        fields["targets"][0]["parts"] = [{"tree": ["01" * 32]}, {"in": {"tree": ["02" * 32, "03" * 32]}}]
        fields["targets"][0]["source"]["tree"] = ["04" * 32]
        fields["targets"][0]["documents"] = {"tree": ["05" * 32], "more": {"tree": ["06" * 32]}}
        fields["targets"].append({"kind": "planet", "name": "mars", "tree": ["07" * 32]})
        fields["helper"] = {"tree": ["08" * 32], "extra": [{"tree": ["09" * 32]}]}
        fields["tree"] = ["0a" * 32]
        fields["later"] = [[{"tree": ["0b" * 32]}]]
        fields["documents"] = {"tree": ["0c" * 32]}
        fields["odd.tree"] = ["not a tree"]

    snapshot = decode_snapshot(changed(add), source="snapshots/x")
    assert snapshot is not None
    found = sorted(chunk_id for target in stored_trees(snapshot) for chunk_id in target.tree)
    assert found == sorted([*(f"{number:02x}" * 32 for number in range(1, 13)), "ab" * 32])
    assert {target.name for target in snapshot.unknown} == {
        "targets[0].parts[0].tree",
        "targets[0].parts[1].in.tree",
        "targets[0].source.tree",
        "targets[0].documents.more.tree",
        "helper.extra[0].tree",
        "tree",
        "later[0][0].tree",
    }


@pytest.mark.parametrize(
    ("later", "problem"),
    [
        ([{"tree": []}] * 100_001, "more than 100000 lists named tree"),
        ({"k" * 4096: {"tree": []}}, "at a path of more than 4096 characters"),
    ],
)
def test_too_many_or_too_deep_trees_are_damage(later: Any, problem: str) -> None:
    with pytest.raises(IntegrityError, match=problem):
        decode_snapshot(changed(lambda fields: fields.update(later=later)), source="snapshots/x")


def test_a_long_key_above_many_values_takes_no_memory_for_each() -> None:
    text = changed(lambda fields: fields.update({"k" * 4000: {f"{number}": [] for number in range(20_000)}}))
    tracemalloc.start()
    decode_snapshot(text, source="snapshots/x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000  # 80 MB if each had a path of its own


# --- origin and copies


def signed(**changes: Any) -> Snapshot:
    fields = {"origin": KEY.public.hex(), "sequence": 3, "previous": Previous("20250308t010203z-00000000", 2)}
    return record(**(fields | changes))


def test_a_signed_record_comes_back() -> None:
    snapshot = signed(adopted=["ab" * 32], documents=Documents(["cd" * 32]), requires=["later"])
    payload = encode_snapshot(snapshot, KEY, repository_id=REPOSITORY)
    assert decode_snapshot(payload, source="snapshots/x", repository_id=REPOSITORY) == snapshot


def test_whoever_does_not_hold_the_key_of_an_origin_cannot_speak_for_it() -> None:
    payload = encode_snapshot(signed(), KEY, repository_id=REPOSITORY)
    line, _, second = payload.partition(b"\n")
    other = SigningKey(bytes(32))
    forged = [
        line,
        line.replace(b'"sequence":3', b'"sequence":9') + b"\n" + second,
        line + b'\n{"signature": "' + b"00" * 64 + b'"}',
        line + b"\n" + json.dumps({"signature": other.sign(line).hex()}).encode(),
        line + b'\n{"copy": {"id": "x", "via": []}}',
    ]
    for each in forged:
        with pytest.raises(IntegrityError, match="not signed by it"):
            decode_snapshot(each, source="snapshots/x", repository_id=REPOSITORY)
    with pytest.raises(IntegrityError, match="not signed by it"):  # of another repository
        decode_snapshot(payload, source="snapshots/x", repository_id=b"s" * 16)
    with pytest.raises(RepositoryError, match="not signed by it"):
        encode_snapshot(signed(), other, repository_id=REPOSITORY)


def test_a_record_that_nobody_signed_has_no_place_in_a_series() -> None:
    snapshot = decode_snapshot(
        changed(lambda fields: fields.update(sequence=9, previous={"id": "a", "sequence": 8}, adopted=["ab" * 32])),
        source="snapshots/x",
    )
    assert snapshot is not None
    assert (snapshot.sequence, snapshot.previous, snapshot.adopted) == (0, None, [])


def test_a_copy_keeps_the_record_and_its_signature() -> None:
    payload = encode_snapshot(signed(), KEY, repository_id=REPOSITORY)
    first = copied_payload(payload, "copy-1", [])
    second = copied_payload(first, "copy-2", ["copy-1"])
    assert {each.partition(b"\n")[0] for each in (payload, first, second)} == {payload.partition(b"\n")[0]}
    read = decode_snapshot(second, source="snapshots/x", repository_id=REPOSITORY)
    assert read is not None
    assert (read.id, read.copy_of, read.via, read.sequence) == ("copy-2", signed().id, ["copy-1"], 3)
    unsigned = copied_payload(copied_payload(encode_snapshot(record()), "copy-1", []), "copy-2", ["copy-1"])
    read = decode_snapshot(unsigned, source="snapshots/x")
    assert read is not None
    assert (read.id, read.copy_of, read.via, read.origin) == ("copy-2", record().id, ["copy-1"], "")


def test_a_tombstone_is_no_snapshot() -> None:
    assert decode_snapshot(tombstone("x", by="y"), source="snapshots/x") is None
