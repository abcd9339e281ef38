"""What a newer drkit stored: kept, copied and checked, whatever it is; nobody who does not know it writes beside it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from drkit.errors import DrkitError, IntegrityError
from drkit.operations.copy import copy_into
from drkit.operations.forget import forget_snapshots
from drkit.operations.keys import add_recipient, rewrap_keys
from drkit.repository.check import check_repository
from drkit.repository.commit.marks import get_mark
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.packs import pack_key
from drkit.repository.format.record import encode_snapshot
from drkit.repository.format.snapshot import Snapshot, Target, format_time
from drkit.repository.holders.custody import replace_escrow
from drkit.repository.keys.identity import generate_identity
from drkit.repository.proofs import Proof, add_proof, read_proofs
from drkit.repository.prune.plan import plan_prune
from drkit.repository.repository import CONFIG, Repository
from drkit.repository.writer import RunWriter
from tests.support.memory_storage import MemoryStorage
from tests.support.mirroring import make_mirror
from tests.support.pruning import prune_now
from tests.support.repositories import (
    NOW,
    Content,
    create,
    put_content,
    random_content,
    read_content,
    write_snapshot,
)

Add = Callable[[dict[str, Any], list[list[str]]], None]
"""Puts trees into the fields of a record."""


def into_parts(fields: dict[str, Any], trees: list[list[str]]) -> None:
    fields["targets"][0]["parts"] = [{"tree": tree, "name": str(number)} for number, tree in enumerate(trees)]


def into_the_record(fields: dict[str, Any], trees: list[list[str]]) -> None:
    fields["layers"] = {"deep": [[{"tree": tree}] for tree in trees]}


def into_documents(fields: dict[str, Any], trees: list[list[str]]) -> None:
    fields["documents"] = {"tree": trees[0], "others": [{"tree": tree} for tree in trees[1:]]}


def into_the_helper(fields: dict[str, Any], trees: list[list[str]]) -> None:
    fields["helper"] = {"tree": trees[0], "of": {"amd64": {"tree": trees[1]}}}


def into_a_kind_of_its_own(fields: dict[str, Any], trees: list[list[str]]) -> None:
    fields["targets"] += [{"kind": "planet", "name": str(at), "tree": tree} for at, tree in enumerate(trees)]


PLACES = [into_parts, into_the_record, into_documents, into_the_helper, into_a_kind_of_its_own]


def write_newer(
    repository: Repository, recipient: str, run_id: str, contents: list[Content], add: Add, **fields: Any
) -> list[Target]:
    """Commit the record of a newer version, with one tree for each of `contents`; return these as targets."""
    snapshot = Snapshot(run_id, format_time(NOW), "host", "policy", "ok", [])
    parts = [Target("part", str(number)) for number in range(len(contents))]
    with RunWriter(repository, run_id, [recipient], host="host") as writer:
        snapshot.targets.append(Target("volume", "plain"))
        put_content(repository, writer, snapshot.targets[0], {b"": b"root" * 128})
        for part, content in zip(parts, contents, strict=True):
            put_content(repository, writer, part, content)
        record = json.loads(encode_snapshot(snapshot)) | fields
        add(record, [part.tree for part in parts])
        writer.commit(snapshot, json.dumps(record).encode())
    return parts


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> Iterator[random.Random]:
    seed = random.randrange(2**32)
    print(f"seed: {seed}")
    yield random.Random(seed)


@pytest.mark.parametrize("add", PLACES)
def test_no_prune_loses_the_trees_of_a_newer_version(rng: random.Random, add: Add) -> None:
    repository, identity = create(MemoryStorage())
    contents = [random_content(rng), random_content(rng)]
    parts = write_newer(repository, identity.recipient, "20250309t010203z-00000001", contents, add)
    write_snapshot(repository, [identity.recipient], "20250309t010203z-00000002", {"v": random_content(rng)})
    write_snapshot(repository, [identity.recipient], "20250309t010203z-00000003", {"v": random_content(rng)})
    prune_now(repository, "prune-1", "20250309t010203z-00000002")
    prune_now(repository, "prune-2")
    repository.reload_index()
    assert [read_content(repository, part) for part in parts] == contents
    assert check_repository(repository).ok


@pytest.mark.parametrize("add", PLACES)
def test_a_copy_takes_the_trees_of_a_newer_version_along(rng: random.Random, add: Add) -> None:
    repository, identity = create(MemoryStorage())
    contents = [random_content(rng), random_content(rng)]
    parts = write_newer(repository, identity.recipient, "20250309t010203z-00000001", contents, add)
    mirror = make_mirror(repository, MemoryStorage())
    copy_into(repository, mirror, host="host")
    mirror.reload_index()
    assert [read_content(mirror, part) for part in parts] == contents
    assert check_repository(mirror).ok


@pytest.mark.parametrize("add", PLACES)
def test_check_names_damage_to_the_trees_of_a_newer_version(rng: random.Random, add: Add) -> None:
    storage = MemoryStorage()
    repository, identity = create(storage)
    parts = write_newer(repository, identity.recipient, "20250309t010203z-00000001", [random_content(rng)] * 2, add)
    place = repository.index.get(bytes.fromhex(parts[1].tree[0]))
    assert place is not None
    del storage.objects[pack_key(place.pack_id)]
    report = check_repository(Repository.open(storage, repository.identities))
    assert report.findings[pack_key(place.pack_id)].snapshots == ["20250309t010203z-00000001"]


def objects_of(storage: MemoryStorage) -> dict[str, bytes]:
    return {key: bytes(body) for key, body in storage.objects.items()}


def put_in_config(storage: MemoryStorage, repository: Repository, requires: Any) -> None:
    """Change `config` as whoever holds the meta key can."""
    fields = json.loads(storage.objects[CONFIG])
    del fields["mac"]
    fields["requires"] = requires
    text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    mac = keyed_digest(repository.meta.config, text).hex()
    storage.objects[CONFIG] = json.dumps({**fields, "mac": mac}).encode()


@pytest.mark.parametrize("where", ["record", "config"])
def test_whoever_does_not_know_what_is_required_changes_nothing(rng: random.Random, where: str) -> None:
    storage = MemoryStorage()
    repository, identity = create(storage)
    run = "20250309t010203z-00000001"
    requires = ["wormholes"] if where == "record" else []
    content = random_content(rng)
    (part,) = write_newer(repository, identity.recipient, run, [content], into_parts, requires=requires)
    if where == "config":
        put_in_config(storage, repository, ["wormholes"])
    other = MemoryStorage()
    mirror = make_mirror(repository, other)
    repository = Repository.open(storage, [identity])
    before, mirrored = objects_of(storage), objects_of(other)

    def write() -> None:
        list(repository.snapshots())
        write_snapshot(repository, [identity.recipient], "20250309t010203z-00000002", {"v": content})

    for change in (
        write,
        lambda: prune_now(repository),
        lambda: plan_prune(repository, lambda snapshots: set(), 0),
        lambda: forget_snapshots(repository, [run], yes_really=True),
        lambda: copy_into(repository, mirror, host="host"),
    ):
        with pytest.raises(DrkitError, match="was made by a newer drkit: it requires wormholes") as caught:
            change()
        assert caught.value.exit_code == 1
    assert (objects_of(storage), objects_of(other)) == (before, mirrored)
    assert read_content(repository, part) == content  # readers go on
    assert check_repository(repository).ok


def test_no_key_is_given_taken_or_copied_beside_a_config_of_a_newer_version() -> None:
    storage, other = MemoryStorage(), MemoryStorage()
    repository, identity = create(storage)
    put_in_config(storage, repository, ["wormholes"])
    repository = Repository.open(storage, [identity])
    before = objects_of(storage)
    somebody = generate_identity().recipient
    for change in (
        lambda: add_recipient(repository, somebody),
        lambda: rewrap_keys(repository, [identity.recipient, somebody]),
        lambda: replace_escrow(repository, "correct horse battery staple"),
        lambda: make_mirror(repository, other),
    ):
        with pytest.raises(DrkitError, match="requires wormholes"):
            change()
    assert (objects_of(storage), objects_of(other)) == (before, {})


@pytest.mark.parametrize("requires", ["wormholes", {"a": 1}, [1], ["\x1b"], None])
def test_a_config_whose_requirements_cannot_be_read_is_damaged(requires: Any) -> None:
    storage = MemoryStorage()
    repository, identity = create(storage)
    put_in_config(storage, repository, requires)
    with pytest.raises(IntegrityError, match="requires is not a list of names"):
        Repository.open(storage, [identity])


def test_a_mark_of_a_newer_drkit_stops_whoever_would_have_to_heed_it(rng: random.Random) -> None:
    storage = MemoryStorage()
    repository, identity = create(storage)
    content = random_content(rng)
    snapshot = write_snapshot(repository, [identity.recipient], "20250309t010203z-00000001", {"v": content})
    payload = b'{"requires": ["wormholes"]}\n' + bytes(32)
    storage.put("marks/newer", repository.objects.seal("mark", b"newer", payload))
    before = objects_of(storage)
    for change in (
        lambda: write_snapshot(repository, [identity.recipient], "20250309t010203z-00000002", {"v": content}),
        lambda: prune_now(repository),
    ):
        with pytest.raises(DrkitError, match=r"marks/newer .* requires wormholes") as caught:
            change()
        assert caught.value.exit_code == 1
    assert objects_of(storage) == before
    report = check_repository(repository)
    assert report.ok
    assert "made by a newer drkit" in report.notes["marks/newer"]
    assert read_content(repository, snapshot.targets[0]) == content


def test_a_mark_that_requires_nothing_is_read_behind_its_header(rng: random.Random) -> None:
    storage = MemoryStorage()
    repository, _ = create(storage)
    payload = b'{"requires":[]}\n' + b"i" * 32
    storage.put("marks/newer", repository.objects.seal("mark", b"newer", payload))
    assert get_mark(storage, repository.objects, "marks/newer") == {b"i" * 32}


@pytest.mark.parametrize("line", [b'{"requires":7}', b'{"requires":["\\u001b"]}', b'{"requires":', b'{"requires":[1]}'])
def test_a_mark_whose_header_is_odd_is_damaged(line: bytes) -> None:
    storage = MemoryStorage()
    repository, _ = create(storage)
    storage.put("marks/odd", repository.objects.seal("mark", b"odd", line + b"\n" + bytes(32)))
    with pytest.raises(IntegrityError, match="marks/odd does not say what it requires"):
        get_mark(storage, repository.objects, "marks/odd")


def test_no_proof_is_added_after_one_that_requires_what_is_unknown() -> None:
    storage = MemoryStorage()
    repository, _ = create(storage)
    first = add_proof(repository, "key", {}, now=NOW, host="h", version="1")
    fields = {"number": 2, "kind": "drill", "time": format_time(NOW), "host": "h", "drkit": "9", "about": {}}
    fields |= {"previous": first.digest, "requires": ["wormholes"]}
    storage.put("proofs/0000000002", repository.objects.seal("proof", b"0000000002", json.dumps(fields).encode()))
    before = objects_of(storage)
    with pytest.raises(DrkitError, match=r"proofs/0000000002 .* was made by a newer drkit"):
        add_proof(repository, "key", {}, now=NOW, host="h", version="1")
    assert objects_of(storage) == before
    assert [type(proof) for proof in read_proofs(repository)] == [Proof, Proof]


@pytest.mark.parametrize(
    "change",
    [
        {"number": True},
        {"time": "0001-01-01T00:00:00Z"},
        {"kind": "\x1b[2J"},
        {"host": ["h"]},
        {"previous": "xy"},
        {"about": []},
        {"requires": "x"},
    ],
)
def test_odd_fields_make_a_proof_damaged(change: dict[str, Any]) -> None:
    storage = MemoryStorage()
    repository, _ = create(storage)
    fields = {
        "number": 1,
        "kind": "k",
        "time": format_time(NOW),
        "host": "",
        "drkit": "",
        "about": {},
        "previous": None,
    }
    storage.put(
        "proofs/0000000001", repository.objects.seal("proof", b"0000000001", json.dumps(fields | change).encode())
    )
    (found,) = read_proofs(repository)
    assert isinstance(found, IntegrityError)
