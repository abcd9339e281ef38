"""Mirrors and copies in memory: what is sent, what is refused, what damage does, and how ids resolve."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from drkit.catalog.find import find_snapshot
from drkit.errors import AccessDenied, IntegrityError, ObjectExists, RepositoryLocked, RepositoryNotFound, UsageError
from drkit.operations.forget import forget_snapshots
from drkit.repository.check import Report, check_packs, check_repository
from drkit.repository.commit.marks import put_mark
from drkit.repository.commit.session import list_sessions
from drkit.repository.format import packs as packs_module
from drkit.repository.format.record import tombstone
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.holders.custody import read_custody
from drkit.repository.keys.identity import Identity, generate_identity
from drkit.repository.keys.labels import Holder
from drkit.repository.keys.wraps import data_key_wraps, format_meta_key, put_escrow, put_key
from drkit.repository.mirror.mirror import create_mirror, open_mirror
from drkit.repository.pack_reader import read_directories
from drkit.repository.repository import CONFIG, Repository, put_config
from drkit.storage.base import MAX_OBJECT, Storage
from tests.support.faulty_storage import Call, FaultyStorage
from tests.support.independent_reader import IndependentReader
from tests.support.memory_storage import MemoryStorage
from tests.support.mirroring import by_original, copy_all, make_mirror, related_contents
from tests.support.pruning import debris, prune_now, prune_until_clean
from tests.support.repositories import NOW, create, write_snapshot

RUNS = ("20250301t010000z-aaaaaaaa", "20250302t010000z-bbbbbbbb", "20250303t010000z-cccccccc")


class Made:
    """A repository of two recipients with three snapshots, and an empty mirror."""

    def __init__(self, rng: random.Random) -> None:
        self.other = generate_identity()
        self.storage, self.mirror = MemoryStorage(), MemoryStorage()
        self.repository, self.identity = create(self.storage, self.other)
        self.contents = related_contents(rng, RUNS)
        for run in RUNS:
            recipients = [self.identity.recipient, self.other.recipient]
            write_snapshot(self.repository, recipients, run, self.contents[run])
        make_mirror(self.repository, self.mirror)

    def open(self, storage: Storage | None = None) -> Repository:
        return Repository.open(storage or self.storage, [self.identity])

    def write_only(self) -> Repository:
        text = format_meta_key(self.repository.meta.meta_key, self.repository.id)
        return Repository.open_write_only(self.storage, text, source="test")

    def right(self, *runs: str, storage: Storage | None = None, identity: Identity | None = None) -> bool:
        held = by_original(storage or self.mirror, identity or self.identity)
        return held == {run: self.contents[run] for run in runs}


@pytest.fixture
def made(rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setattr(packs_module, "PACK_SIZE", 100_000)
    return Made(rng)


def keys(storage: MemoryStorage, prefix: str) -> list[str]:
    return [key for key in sorted(storage.objects) if key.startswith(prefix)]


def test_a_mirror_has_the_same_id_and_key_and_its_own_wraps(made: Made) -> None:
    source, mirror = made.repository, made.open(made.mirror)
    assert (mirror.id, mirror.meta.meta_key, mirror.chunkers) == (source.id, source.meta.meta_key, source.chunkers)
    assert Repository.open(made.mirror, [made.other]).meta.meta_key == source.meta.meta_key
    assert not set(keys(made.mirror, "keys/meta/")) & set(keys(made.storage, "keys/meta/"))
    assert read_custody(mirror).holders() == read_custody(source).holders()
    assert read_custody(mirror).unlabelled == []
    assert check_repository(mirror).ok
    assert (mirror.is_mirror, source.is_mirror) == (True, False)


def test_all_snapshots_are_copied_newest_first_and_only_once(made: Made) -> None:
    done = copy_all(made.open(), made.mirror)
    assert [each.snapshot for each in done.copied] == list(reversed(RUNS))
    assert [each.copy.partition("-")[0] for each in done.copied] == [run.partition("-")[0] for run in reversed(RUNS)]
    assert not {each.copy for each in done.copied} & set(RUNS)
    assert done.bytes == sum(each.bytes for each in done.copied)
    assert (done.skipped, done.failed, done.error) == ([], [], None)
    assert made.right(*RUNS)
    assert made.right(*RUNS, identity=made.other), "another recipient reads it too"
    assert check_repository(made.open(made.mirror)).ok
    copies = [record for record in made.open(made.mirror).snapshots() if isinstance(record, Snapshot)]
    assert all(target.aligned for copy in copies for target in copy.targets), "as in the originals"
    before = dict(made.mirror.objects)
    again = copy_all(made.open(), made.mirror)
    assert (again.copied, again.skipped, again.bytes) == ([], list(reversed(RUNS)), 0)
    assert made.mirror.objects == before


def test_only_what_the_mirror_lacks_is_sent_and_nothing_that_no_snapshot_needs(made: Made) -> None:
    copy_all(made.open(), made.mirror, RUNS[1])
    forget_snapshots(made.open(), [RUNS[0]], yes_really=True)
    done = copy_all(made.open(), made.mirror)
    assert [each.snapshot for each in done.copied] == [RUNS[2]]
    listed = made.open(made.mirror).index
    directories = read_directories(made.mirror, made.repository.objects, listed.pack_sizes)
    assert sum(len(entries) for _, entries in directories) == len(listed), "a chunk was sent twice"
    assert debris(made.open(made.mirror)) == []
    before = dict(made.mirror.objects)
    prune_now(made.open(made.mirror))
    assert made.mirror.objects == before, "something that nothing needs was sent"


def test_each_pack_is_read_once(made: Made) -> None:
    source = FaultyStorage(made.storage)
    opened = made.open(source)
    whole: Counter[str] = Counter()
    get = source.get

    def count(key: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT) -> bytes:
        if key.startswith("packs/") and length is None:
            whole[key] += 1
        return get(key, offset, length, limit=limit)

    source.get = count  # type: ignore[method-assign]
    copy_all(opened, made.mirror)
    assert set(whole.values()) == {1}
    assert set(whole) == set(keys(made.storage, "packs/"))


def test_named_snapshots_alone(made: Made) -> None:
    done = copy_all(made.open(), made.mirror, RUNS[0], "bbbb")
    assert [each.snapshot for each in done.copied] == [RUNS[1], RUNS[0]]
    assert made.right(RUNS[0], RUNS[1])


def test_a_host_with_the_meta_key_alone_makes_and_fills_a_mirror(made: Made) -> None:
    host = made.write_only()
    place = MemoryStorage()
    make_mirror(host, place)
    done = copy_all(host, place)
    assert len(done.copied) == 3
    assert by_original(place, made.identity) == made.contents
    assert by_original(place, made.other) == made.contents
    with pytest.raises(AccessDenied):
        host.keys.get(data_key_wraps(place)[0].key_id)


def test_a_passphrase_in_the_repository_is_in_the_mirror_too(made: Made) -> None:
    put_escrow(made.storage, made.repository.objects, made.identity, "five random words make it")
    place = MemoryStorage()
    make_mirror(made.repository, place)
    assert keys(place, "keys/escrow/") == keys(made.storage, "keys/escrow/")
    assert [wrap.holder for wrap in read_custody(made.open(place)).escrows] == [Holder(made.identity.recipient)]


def test_wraps_without_a_label_come_along(made: Made) -> None:
    for key in keys(made.storage, "keys/recipients/"):
        del made.storage.objects[key]
    place = MemoryStorage()
    make_mirror(made.write_only(), place)
    copy_all(made.open(), place)
    assert by_original(place, made.identity) == by_original(place, made.other) == made.contents


# -- what is refused


def test_a_place_that_holds_a_repository_is_left_alone(made: Made) -> None:
    for place in (made.storage, made.mirror):
        before = dict(place.objects)
        with pytest.raises(ObjectExists, match="holds a repository already"):
            create_mirror(made.repository, place, now=NOW, single_writer=False)
        assert place.objects == before


def refused(made: Made, place: MemoryStorage, error: type[Exception], match: str) -> None:
    before = dict(place.objects)
    with pytest.raises(error, match=match) as caught:
        copy_all(made.open(), place)
    assert "drkit init --repository" in str(caught.value.hint)  # type: ignore[attr-defined]
    assert place.objects == before


def test_a_place_without_a_repository_is_refused(made: Made) -> None:
    refused(made, MemoryStorage(), RepositoryNotFound, "holds no drkit repository")


def test_another_repository_is_refused(made: Made) -> None:
    place = MemoryStorage()
    create(place)
    refused(made, place, UsageError, "not a mirror of")


def test_a_repository_that_only_says_that_it_is_ours_is_refused(made: Made) -> None:
    fields = json.loads(made.mirror.objects[CONFIG])
    del fields["mac"]
    del made.mirror.objects[CONFIG]
    stranger, _ = create(MemoryStorage())
    put_config(made.mirror, stranger.meta, fields)
    refused(made, made.mirror, IntegrityError, "but not its meta key")


def test_a_repository_that_is_no_mirror_takes_no_copies(made: Made) -> None:
    copy_all(made.open(), made.mirror)
    before = dict(made.storage.objects)
    with pytest.raises(UsageError, match="was not made as a mirror"):
        open_mirror(made.open(made.mirror), made.storage)
    assert made.storage.objects == before


# -- damage


def flip(storage: MemoryStorage, key: str, at: int) -> None:
    body = bytearray(storage.objects[key])
    body[at] ^= 1
    storage.objects[key] = bytes(body)


def test_bit_rot_does_not_travel(made: Made, rng: random.Random) -> None:
    """Whatever pack is hit: snapshots that need it fail by name, the others are whole in the mirror."""
    failed = 0
    for key in keys(made.storage, "packs/"):
        body = made.storage.objects[key]
        flip(made.storage, key, rng.randrange(len(body)))
        needing = set()
        for finding in check_all(made).findings.values():
            needing |= set(finding.snapshots)
        place = MemoryStorage()
        make_mirror(made.open(), place)
        done = copy_all(made.open(), place)
        good = [each.snapshot for each in done.copied]
        assert {each.snapshot for each in done.failed} == set(RUNS) - set(good)
        assert needing <= {each.snapshot for each in done.failed}
        assert all(key in each.error for each in done.failed), done.failed
        assert by_original(place, made.identity) == {run: made.contents[run] for run in good}
        assert check_repository(made.open(place)).ok
        failed += len(done.failed)
        made.storage.objects[key] = body
        assert len(copy_all(made.open(), place).copied) == len(done.failed), "it continues once the pack is whole again"
        assert by_original(place, made.identity) == made.contents
    assert failed


def check_all(made: Made) -> Report:
    return check_packs(made.open())


def test_a_missing_pack_fails_what_needs_it(made: Made) -> None:
    key = keys(made.storage, "packs/")[0]
    body = made.storage.objects.pop(key)
    done = copy_all(made.open(), made.mirror)
    assert done.failed
    assert all(f"{key} is missing" in each.error for each in done.failed), done.failed
    assert made.right(*(each.snapshot for each in done.copied))
    made.storage.objects[key] = body
    copy_all(made.open(), made.mirror)
    assert made.right(*RUNS)


def test_a_missing_key_fails_what_needs_it(made: Made) -> None:
    wrap = data_key_wraps(made.storage)[0].key_id.hex()
    for key in keys(made.storage, f"keys/{wrap}/"):
        del made.storage.objects[key]
    done = copy_all(made.open(), made.mirror)
    assert done.failed
    assert all(f"keys/{wrap}/" in each.error for each in done.failed)
    assert list_sessions(made.mirror) == {}
    assert made.right(*(each.snapshot for each in done.copied))


def test_a_damaged_record_is_named_and_the_others_are_copied(made: Made) -> None:
    flip(made.storage, f"snapshots/{RUNS[1]}", 40)
    done = copy_all(made.open(), made.mirror)
    assert [each.snapshot for each in done.failed] == [RUNS[1]]
    assert done.error is not None
    assert done.error.exit_code == 3
    assert made.right(RUNS[0], RUNS[2])


# -- copies of copies


def test_a_lost_primary_is_made_anew_from_the_mirror_and_every_id_still_resolves(made: Made) -> None:
    first = {each.snapshot: each.copy for each in copy_all(made.open(), made.mirror).copied}
    primary = MemoryStorage()
    make_mirror(made.open(made.mirror), primary)
    second = {each.snapshot: each.copy for each in copy_all(made.open(made.mirror), primary).copied}
    assert made.right(*RUNS, storage=primary)
    opened = made.open(primary)
    for run in RUNS:
        mirrored = first[run]
        for name in (run, mirrored, second[mirrored], run[-8:]):
            record = find_snapshot(opened, name)
            assert (record.id, record.copy_of, record.via) == (second[mirrored], run, [mirrored])
    for source, place in ((primary, made.mirror), (made.mirror, primary), (made.storage, made.mirror)):
        assert copy_all(made.open(source), place).copied == []


def test_two_copies_of_one_snapshot_are_not_ambiguous(made: Made) -> None:
    other = MemoryStorage()
    make_mirror(made.open(), other)
    copy_all(made.open(), made.mirror, RUNS[0])
    copy_all(made.open(), other, RUNS[0])
    for key in keys(other, ""):  # as two copies at the same time would leave it
        made.mirror.objects.setdefault(key, other.objects[key])
    opened = made.open(made.mirror)
    assert sum(isinstance(each, Snapshot) for each in opened.snapshots()) == 2
    assert find_snapshot(opened, RUNS[0]).copy_of == RUNS[0]


# -- beside prunes


def test_a_copy_that_a_prune_fenced_says_so_and_a_rerun_succeeds(made: Made) -> None:
    def fence(call: Call) -> None:
        if call.kind == "put" and call.key.startswith("snapshots/") and call.key not in made.mirror.objects:
            run = call.key.removeprefix("snapshots/")
            body = made.repository.objects.seal("snapshot", run.encode(), tombstone(run, by="prune"))
            made.mirror.put(call.key, body)

    with pytest.raises(RepositoryLocked, match="fenced by a prune") as caught:
        copy_all(made.open(), FaultyStorage(made.mirror, on_call=fence))
    assert (caught.value.exit_code, caught.value.hint) == (11, "Run drkit copy again.")
    assert list_sessions(made.mirror) == {}
    assert by_original(made.mirror, made.identity) == {}
    copy_all(made.open(), made.mirror)
    assert made.right(*RUNS)
    prune_until_clean(made.open(made.mirror))
    assert made.right(*RUNS)


def test_a_prune_of_the_mirror_keeps_keys_that_a_copy_could_bring_back(made: Made) -> None:
    """A prune that slept would delete a wrap by its name, after a copy had brought the same one back."""
    copy_all(made.open(), made.mirror, RUNS[0], RUNS[2])
    wraps = data_key_wraps(made.mirror)
    forget_snapshots(made.open(made.mirror), [RUNS[0]], yes_really=True)
    prune_until_clean(made.open(made.mirror))
    assert data_key_wraps(made.mirror) == wraps
    copy_all(made.open(), made.mirror)
    assert made.right(*RUNS)


def test_a_key_that_some_prune_condemned_is_not_relied_on(made: Made) -> None:
    wrap = data_key_wraps(made.storage)[0]
    put_mark(made.mirror, made.repository.objects, "prune", [wrap.id])
    with pytest.raises(RepositoryLocked, match="is about to delete the data key"):
        copy_all(made.open(), made.mirror)
    made.mirror.delete("marks/prune")
    copy_all(made.open(), made.mirror)
    assert made.right(*RUNS)


def test_a_prune_of_the_source_moves_packs_under_a_copy(made: Made) -> None:
    forgotten = RUNS[0]
    forget_snapshots(made.open(), [forgotten], yes_really=True)
    pruned = False

    def prune_meanwhile(call: Call) -> None:
        nonlocal pruned
        if not pruned and call.kind == "put" and call.key.startswith("sessions/"):
            pruned = True
            assert prune_now(made.open()).packs_deleted

    done = copy_all(made.open(), FaultyStorage(made.mirror, on_call=prune_meanwhile))
    assert pruned
    assert done.failed == []
    assert made.right(*RUNS[1:])


def test_keys_added_later_come_with_the_next_copy(made: Made) -> None:
    copy_all(made.open(), made.mirror, RUNS[0])
    late = generate_identity()
    wrap = data_key_wraps(made.mirror)[0]
    key = made.open().keys.get(wrap.key_id)
    put_key(
        made.storage,
        made.repository.objects,
        f"keys/{wrap.key_id.hex()}/",
        made.repository.id,
        key,
        [Holder(late.recipient)],
    )
    again = {"v": made.contents[RUNS[0]]["v"]}  # so that the next copy needs the key
    write_snapshot(made.open(), [made.identity.recipient], "20250401t000000z-dddddddd", again)
    copy_all(made.open(), made.mirror)
    assert wrap.key_id.hex() in read_custody(made.open(made.mirror)).opened_by(late.recipient)


def test_the_independent_reader_reads_a_mirror(made: Made, tmp_path: Path) -> None:
    copy_all(made.open(), made.mirror)
    for key, body in made.mirror.objects.items():
        path = tmp_path / "mirror" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    reader = IndependentReader(tmp_path / "mirror", made.identity.secret_text())
    records = reader.snapshots()
    assert {record["copy_of"] for record in records.values()} == set(RUNS)
    for record in records.values():
        [target] = record["targets"]
        held = b"".join(data for _, data in sorted(made.contents[record["copy_of"]]["v"].items()))
        raw = b"".join(
            reader.chunk(name)[start : start + length] for name, start, length in extents(reader, target["tree"])
        )
        assert raw == held


def extents(reader: IndependentReader, tree: list[str]):  # type: ignore[no-untyped-def]
    import msgpack

    from tests.support.independent_reader import EXTENT

    unpacker = msgpack.Unpacker(raw=False, use_list=False)
    unpacker.feed(b"".join(reader.chunk(bytes.fromhex(name)) for name in tree))
    for record in unpacker:
        yield from EXTENT.iter_unpack(record[6])
