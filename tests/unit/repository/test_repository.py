"""A repository as a whole: made, opened, written, read back."""

from __future__ import annotations

import json
import random
import re
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from drkit.errors import (
    AccessDenied,
    DrkitError,
    IntegrityError,
    ObjectExists,
    RepositoryLocked,
    RepositoryNotFound,
    StorageUnavailable,
)
from drkit.repository.check import check_repository
from drkit.repository.commit.marks import MARK_PREFIX, require_marks
from drkit.repository.commit.session import SESSION_PREFIX
from drkit.repository.format.compression import Compression
from drkit.repository.format.packs import PACK_PREFIX, PACK_SIZE, pack_key
from drkit.repository.format.snapshot import Snapshot, Target, format_time
from drkit.repository.format.tree import EXTENT, Member, encode_member
from drkit.repository.keys.identity import Identity, generate_identity
from drkit.repository.keys.wraps import format_meta_key
from drkit.repository.reader import AHEAD, ChunkReader
from drkit.repository.repository import CONFIG, Repository, read_config
from drkit.repository.writer import RunWriter
from tests.support.faulty_storage import FaultyStorage
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import (
    NOW,
    create,
    put_content,
    random_content,
    read_content,
    read_everything,
    write_snapshot,
)

MIB = 1 << 20


class Made:
    """A repository in memory and who may open it."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.repository, self.identity = create(self.storage)
        self.recipients = [self.identity.recipient]

    def reopened(self) -> Repository:
        return Repository.open(self.storage, [self.identity])

    def write(self, run_id: str, **contents: dict[bytes, bytes]) -> Snapshot:
        return write_snapshot(self.reopened(), self.recipients, run_id, contents)

    def count(self, prefix: str) -> int:
        return sum(key.startswith(prefix) for key in self.storage.objects)


@pytest.fixture
def made() -> Made:
    return Made()


# --- making and opening -----------------------------------------------------------------------------------------------


def test_a_new_repository(made: Made) -> None:
    assert made.count("keys/meta/") == 1
    assert made.count("keys/recipients/meta/") == 1
    assert made.count("") == 3
    assert list(made.reopened().snapshots()) == []
    assert made.reopened().id == made.repository.id
    fields = json.loads(made.storage.objects[CONFIG])
    assert (fields["format"], fields["version"], fields["created"]) == ("drkit repository", 1, format_time(NOW))


def test_a_repository_is_never_made_over_another(made: Made) -> None:
    before = dict(made.storage.objects)
    with pytest.raises(ObjectExists, match="holds a repository already"):
        create(made.storage)
    assert made.storage.objects == before


def test_an_init_that_failed_anywhere_is_repeated() -> None:
    """Whatever it left behind, the next one makes a repository that opens."""
    for call in range(1, 10):
        for after in (False, True):
            inner = MemoryStorage()
            storage = FaultyStorage(inner)
            storage.fail(StorageUnavailable("gone"), call=call, after=after)
            identity, other = generate_identity(), generate_identity()
            recipients = [identity.recipient, other.recipient]
            try:
                Repository.create(storage, identity, recipients, now=NOW)
            except StorageUnavailable:
                if CONFIG not in inner.objects:
                    with pytest.raises(RepositoryNotFound):
                        Repository.open(inner, [identity])
                    Repository.create(inner, identity, recipients, now=NOW)
            for opener in (identity, other):
                assert list(Repository.open(inner, [opener]).snapshots()) == []


def test_who_makes_a_repository_can_open_it() -> None:
    storage = MemoryStorage()
    with pytest.raises(AccessDenied, match="is not among the recipients"):
        Repository.create(storage, generate_identity(), [generate_identity().recipient], now=NOW)
    assert storage.objects == {}


def test_no_repository() -> None:
    with pytest.raises(RepositoryNotFound, match="memory: holds no drkit repository"):
        Repository.open(MemoryStorage(), [generate_identity()])


def test_a_wrong_identity_is_no_damage(made: Made) -> None:
    with pytest.raises(AccessDenied, match="opens no key of this repository"):
        Repository.open(made.storage, [generate_identity()])
    assert Repository.open(made.storage, [generate_identity(), made.identity]).id == made.repository.id


def config_with(**changes: Any) -> Callable[[bytes], bytes]:
    def change(body: bytes) -> bytes:
        return json.dumps({**json.loads(body), **changes}).encode()

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: b"",
        lambda body: body[:-5],
        lambda body: b"\xff" + body,
        lambda body: b"[]",
        lambda body: b"7",
        lambda body: b"[" * 100_000,
        lambda body: b"{}",
        config_with(format="tar"),
        config_with(id="00"),
        config_with(id="zz"),
        config_with(id=5),
        config_with(mac="00"),
        config_with(mac=None),
        config_with(version="1"),
        config_with(version=True),
        config_with(created="2020-01-01T00:00:00.000000Z"),
        config_with(chunkers={}),
        config_with(later=1),
    ],
)
def test_a_damaged_config(made: Made, damage: Callable[[bytes], bytes]) -> None:
    made.storage.objects[CONFIG] = damage(made.storage.objects[CONFIG])
    with pytest.raises(IntegrityError) as caught:
        made.reopened()
    assert caught.value.object_name == CONFIG
    assert "config of memory:" in caught.value.message


def test_any_bit_of_the_config_counts(made: Made) -> None:
    body = made.storage.objects[CONFIG]
    original = read_config(made.storage)
    for position in range(len(body)):
        for bit in range(8):
            changed = bytearray(body)
            changed[position] ^= 1 << bit
            made.storage.objects[CONFIG] = bytes(changed)
            try:
                config = read_config(made.storage)
                repository = Repository(made.storage, config, made.repository.meta.meta_key, ())
            except DrkitError as error:
                assert isinstance(error, IntegrityError) or "repository of format" in error.message
                continue
            # Blanks between the fields, or the case of a hexadecimal digit.
            assert (config, repository.id) == (original, made.repository.id)


def test_the_config_is_read_whatever_its_layout(made: Made) -> None:
    fields = json.loads(made.storage.objects[CONFIG])
    made.storage.objects[CONFIG] = json.dumps(dict(reversed(fields.items())), indent=8).encode()
    assert made.reopened().id == made.repository.id


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_format_version_is_told_apart_from_damage(made: Made, version: int) -> None:
    made.storage.objects[CONFIG] = config_with(version=version)(made.storage.objects[CONFIG])
    with pytest.raises(DrkitError, match=f"a repository of format {version}, this drkit reads format 1") as caught:
        made.reopened()
    assert not isinstance(caught.value, IntegrityError)
    assert caught.value.exit_code == 1


def test_a_write_only_host(made: Made, rng: random.Random) -> None:
    """It has the meta key alone: it backs up incrementally, and reads no data, not even its own of earlier runs."""
    content = random_content(rng)
    text = format_meta_key(made.repository.meta.meta_key, made.repository.id)
    for run in ("1", "2"):
        host = Repository.open_write_only(made.storage, text, source="meta.key")
        write_snapshot(host, made.recipients, run, {"v": content})
    assert made.count(PACK_PREFIX) == 2
    host = Repository.open_write_only(made.storage, text, source="meta.key")
    [first, second] = host.snapshots()
    assert isinstance(first, Snapshot)
    assert isinstance(second, Snapshot)
    with ChunkReader(host) as reader:
        assert {member.path for member in reader.members(second.targets[0])} == content.keys()
        with pytest.raises(AccessDenied, match="the meta key alone"):
            b"".join(reader.extents(reader.members(second.targets[0])))
    assert read_everything(made.reopened()) == {"1": {"v": content}, "2": {"v": content}}


def test_a_wrong_meta_key(made: Made) -> None:
    text = format_meta_key(bytes(32), made.repository.id)
    with pytest.raises(IntegrityError, match="does not authenticate"):
        Repository.open_write_only(made.storage, text, source="meta.key")


# --- writing and reading ----------------------------------------------------------------------------------------------


def test_what_is_written_is_read(made: Made, rng: random.Random) -> None:
    one, two, three = (random_content(rng) for _ in range(3))
    made.write("1", a=one, b=two)
    made.write("2", a=one, b=three)
    made.write("3", empty={})
    assert read_everything(made.reopened()) == {
        "1": {"a": one, "b": two},
        "2": {"a": one, "b": three},
        "3": {"empty": {}},
    }
    assert made.count(SESSION_PREFIX) == 0


def test_equal_data_is_stored_once(made: Made, rng: random.Random) -> None:
    content = random_content(rng) | {b"large": rng.randbytes(200_000)}
    made.write("1", a=content, b=content)
    before = sum(len(body) for key, body in made.storage.objects.items() if key.startswith(PACK_PREFIX))
    keys = made.count("keys/")
    made.write("2", a=content)
    after = sum(len(body) for key, body in made.storage.objects.items() if key.startswith(PACK_PREFIX))
    assert after == before
    assert made.count("keys/") == keys  # no data, no key
    assert before < 1.1 * sum(len(data) for data in content.values())


def test_a_run_without_commit_leaves_no_snapshot(made: Made, rng: random.Random) -> None:
    with RunWriter(made.repository, "1", made.recipients, host="h") as writer:
        put_content(made.repository, writer, Target("volume", "v"), random_content(rng))
        assert made.count(SESSION_PREFIX) == 1
    with (
        pytest.raises(RuntimeError, match="of the caller"),
        RunWriter(made.repository, "2", made.recipients, host="h") as writer,
    ):
        put_content(made.repository, writer, Target("volume", "v"), random_content(rng))
        raise RuntimeError("of the caller")
    assert list(made.reopened().snapshots()) == []
    assert made.count(SESSION_PREFIX) == 0


def test_packs_have_their_size_and_their_kind(made: Made, rng: random.Random) -> None:
    content = {b"%d" % number: rng.randbytes(4 * MIB) for number in range(20)}
    with RunWriter(made.repository, "1", made.recipients, host="h") as writer:
        target = Target("volume", "v")
        put_content(made.repository, writer, target, content, piece=4 * MIB)
        writer.commit(Snapshot("1", format_time(NOW), "h", "p", "ok", [target]))
        stored = writer.bytes_stored
    packs = [body for key, body in made.storage.objects.items() if key.startswith(PACK_PREFIX)]
    assert sorted(body[:8] for body in packs) == [b"DRKITP1d"] * 3 + [b"DRKITP1t"]
    assert max(map(len, packs)) < PACK_SIZE + 5 * MIB
    assert 80 * MIB < stored < sum(map(len, packs)) < stored + 20_000
    assert read_content(made.reopened(), target) == content


def test_each_run_has_a_data_key_of_its_own_with_a_wrap_for_everybody(made: Made, rng: random.Random) -> None:
    escrow = generate_identity()
    recipients = [made.identity.recipient, escrow.recipient]
    for run in ("1", "2"):
        write_snapshot(made.reopened(), recipients, run, {"v": random_content(rng)})
    data_keys = [key for key in made.storage.objects if re.match("keys/[0-9a-f]{32}/", key)]
    assert len(data_keys) == 4
    assert len({key.split("/")[1] for key in data_keys}) == 2
    for key in data_keys:
        opens = [i.unwrap(made.storage.objects[key]) is not None for i in (made.identity, escrow)]
        assert sorted(opens) == [False, True]


def test_the_order_of_a_commit(made: Made, rng: random.Random) -> None:
    """What a crash leaves must never be more than what is referred to: see FORMAT.md."""
    storage = FaultyStorage(made.storage)
    repository = Repository.open(storage, [made.identity])
    storage.calls.clear()
    write_snapshot(repository, made.recipients, "1", {"v": random_content(rng)})
    steps = [f"{call.kind} {re.sub('/.*', '/', call.key)}" for call in storage.calls]
    assert steps == [
        "put sessions/",
        "stat sessions/",  # each small object is seen before the next step
        "list marks/",
        "list keys/",
        "list packs/",
        "list index/",
        "put keys/",  # the label, then the wrap that it names
        "stat keys/",
        "put keys/",
        "stat keys/",
        "get keys/",  # the wrap, which an identity that is at hand must open
        "put packs/",
        "put packs/",
        "put index/",
        "stat index/",
        "list packs/",
        "put snapshots/",
        "get snapshots/",
        "delete sessions/",
    ]


def test_condemned_packs_are_not_used(made: Made, rng: random.Random) -> None:
    content = random_content(rng)
    made.write("1", v=content)
    packs = [key for key in made.storage.objects if key.startswith(PACK_PREFIX)]
    condemned = b"".join(bytes.fromhex(key.rpartition("/")[2]) for key in packs)
    mark = made.repository.objects.seal("mark", b"prune-1", condemned)
    made.storage.put(f"{MARK_PREFIX}prune-1", mark)
    assert require_marks(made.storage, made.repository.objects) == {
        "prune-1": {bytes.fromhex(key.rpartition("/")[2]) for key in packs}
    }
    made.write("2", v=content)
    for key in packs:
        made.storage.delete(key)
    snapshot = next(s for s in made.reopened().snapshots() if isinstance(s, Snapshot) and s.id == "2")
    assert read_content(made.reopened(), snapshot.targets[0]) == content


@pytest.mark.parametrize("change", [lambda body: body[:-1], lambda body: b"", lambda body: body[:20] + bytes(30)])
def test_a_run_relies_on_nothing_older_than_a_mark_that_does_not_open(
    made: Made, rng: random.Random, change: Callable[[bytes], bytes]
) -> None:
    content = random_content(rng)
    made.write("1", v=content)
    packs = [key for key in made.storage.objects if key.startswith(PACK_PREFIX)]
    key = f"{MARK_PREFIX}prune-1"
    made.storage.put(key, change(made.repository.objects.seal("mark", b"prune-1", bytes(64))))
    with RunWriter(made.repository, "x", made.recipients, host="h") as writer:
        assert writer.unreadable_mark is not None
        assert writer.unreadable_mark.object_name == key
        assert f"delete {key} from {made.storage.url}" in (writer.unreadable_mark.hint or "")
        assert writer.is_condemned(bytes(32))
    made.write("2", v=content)
    for each in packs:  # whatever that prune condemned
        made.storage.delete(each)
    snapshot = next(s for s in made.reopened().snapshots() if isinstance(s, Snapshot) and s.id == "2")
    assert read_content(made.reopened(), snapshot.targets[0]) == content
    assert check_repository(made.reopened()).findings.keys() >= {key}


def test_a_mark_of_another_size_or_kind_is_no_mark(made: Made) -> None:
    for number, payload in enumerate((bytes(33), bytes(1))):
        made.storage.put(f"{MARK_PREFIX}{number}", made.repository.objects.seal("mark", b"%d" % number, payload))
        with pytest.raises(IntegrityError, match=f"marks/{number}"):
            require_marks(made.storage, made.repository.objects)
        made.storage.delete(f"{MARK_PREFIX}{number}")
    made.storage.put(f"{MARK_PREFIX}p/q", b"not a mark's name")
    assert require_marks(made.storage, made.repository.objects) == {}


def test_a_fenced_run_does_not_commit(made: Made, rng: random.Random) -> None:
    with RunWriter(made.repository, "1", made.recipients, host="h") as writer:
        put_content(made.repository, writer, Target("volume", "v"), random_content(rng))
        made.storage.put("snapshots/1", b"the tombstone of a prune")
        with pytest.raises(RepositoryLocked, match="fenced by a prune") as caught:
            writer.commit(Snapshot("1", format_time(NOW), "h", "p", "ok", []))
    assert caught.value.exit_code == 11
    assert made.storage.objects["snapshots/1"] == b"the tombstone of a prune"


class LostReply(MemoryStorage):
    """Its client repeats a put whose answer was lost: the object is there then, and it is our own."""

    def put(self, key: str, data: Any, *, locked: bool = True) -> None:
        super().put(key, data, locked=locked)
        if key.startswith("snapshots/"):
            raise ObjectExists(f"object {key} exists already in {self.url}")


def test_our_own_record_is_a_success(rng: random.Random) -> None:
    storage = LostReply()
    repository, identity = create(storage)
    content = random_content(rng)
    write_snapshot(repository, [identity.recipient], "1", {"v": content})
    assert read_everything(Repository.open(storage, [identity])) == {"1": {"v": content}}


def test_a_pack_that_vanishes_before_the_commit(made: Made, rng: random.Random) -> None:
    content = random_content(rng)
    made.write("1", v=content)
    with RunWriter(made.reopened(), "2", made.recipients, host="h") as writer:
        put_content(made.repository, writer, Target("volume", "v"), content)
        gone = next(key for key in made.storage.objects if key.startswith(PACK_PREFIX))
        del made.storage.objects[gone]
        with pytest.raises(IntegrityError, match="missing or cut short") as caught:
            writer.commit(Snapshot("2", format_time(NOW), "h", "p", "ok", []))
    assert caught.value.object_name == gone
    assert "snapshots/2" not in made.storage.objects


def test_the_next_backup_heals_what_a_lost_pack_took(made: Made, rng: random.Random) -> None:
    content = random_content(rng)
    made.write("1", v=content)
    for key in [key for key in made.storage.objects if key.startswith(PACK_PREFIX)]:
        del made.storage.objects[key]
    made.write("2", v=content)
    assert read_everything(made.reopened()) == {"1": {"v": content}, "2": {"v": content}}


def test_after_a_failed_upload_nothing_commits(made: Made, rng: random.Random) -> None:
    """Also when whoever called did not listen to the error."""
    storage = FaultyStorage(made.storage)
    repository = Repository.open(storage, [made.identity])
    storage.fail(StorageUnavailable("gone"), kind="put", prefix=PACK_PREFIX)
    target = Target("volume", "v")
    with RunWriter(repository, "1", made.recipients, host="h") as writer:
        with pytest.raises(StorageUnavailable):
            put_content(repository, writer, target, random_content(rng))
            writer.flush()
        with pytest.raises(IntegrityError, match="were not stored"):
            writer.commit(Snapshot("1", format_time(NOW), "h", "p", "ok", [target]))
    assert list(made.reopened().snapshots()) == []


def test_chunks_stay_as_they_were_compressed(made: Made, rng: random.Random) -> None:
    """Another choice counts for what is new: nothing is stored twice, or compressed again."""
    words = [rng.randbytes(rng.randrange(2, 9)) for _ in range(3000)]
    old, new = (b" ".join(rng.choices(words, k=50_000)) for _ in range(2))
    stored = {}
    for run, compression, parts in (("1", "fast", [old]), ("2", "best", [old, new]), ("3", "fast", [old, new])):
        choice = Compression(compression)
        with RunWriter(made.reopened(), run, made.recipients, host="h", compression=choice) as writer:
            for part in parts:
                writer.put_data(part)
            writer.commit(Snapshot(run, format_time(NOW), "h", "p", "ok", [], compression=choice))
            stored[run] = writer.bytes_stored
    assert stored["2"] < 0.98 * stored["1"]
    assert stored["3"] == 0
    assert [record.compression for record in made.reopened().snapshots() if isinstance(record, Snapshot)] == [
        "fast",
        "best",
        "fast",
    ]


def test_a_run_without_anything_new_leaves_its_record_alone(made: Made, rng: random.Random) -> None:
    """Above all no data key: each one needs a wrap for every recipient, for as long as the repository lasts."""
    content = random_content(rng)
    made.write("1", v=content)
    before = dict(made.storage.objects)
    made.write("2", v=content)
    assert made.storage.objects.keys() - before.keys() == {"snapshots/2"}
    assert {key: made.storage.objects[key] for key in before} == before


def test_only_the_run_itself_is_committed(made: Made) -> None:
    with RunWriter(made.repository, "1", made.recipients, host="h") as writer, pytest.raises(ValueError, match="run 1"):
        writer.commit(Snapshot("2", format_time(NOW), "h", "p", "ok", []))


def test_chunks_of_earlier_runs_are_referred_to(made: Made, rng: random.Random) -> None:
    made.write("1", v=random_content(rng))
    known = next(iter(made.reopened().index._places))
    with RunWriter(made.reopened(), "2", made.recipients, host="h") as writer:
        assert writer.chunk_size(known)
        assert writer.chunk_size(bytes(32)) is None
        writer.use([known])
        with pytest.raises(IntegrityError, match=f"chunk {'00' * 32} is in no index"):
            writer.use([bytes(32)])


def test_a_deleted_index_is_read_from_the_packs(made: Made, rng: random.Random) -> None:
    content = random_content(rng)
    made.write("1", v=content)
    made.write("2", w={b"x": rng.randbytes(1000)})
    for key in [key for key in made.storage.objects if key.startswith("index/")][:1]:
        del made.storage.objects[key]
    assert read_everything(made.reopened())["1"] == {"v": content}


def test_reading_survives_a_prune_that_moves_chunks(made: Made, rng: random.Random) -> None:
    content = random_content(rng)
    snapshot = made.write("1", v=content)
    reading = made.reopened()
    assert len(reading.index) > 0  # read before the prune
    packs = {key: body for key, body in made.storage.objects.items() if key.startswith(PACK_PREFIX)}
    index = [key for key in made.storage.objects if key.startswith("index/")]
    for key in (*packs, *index):
        del made.storage.objects[key]
    made.write("2", v=content)  # packs it all again, as a prune would
    assert packs.keys().isdisjoint(made.storage.objects)
    assert read_content(reading, snapshot.targets[0]) == content


# --- reading in bounded memory ----------------------------------------------------------------------------------------


def scattered(made: Made, chunks: int) -> list[Member]:
    """Members of some bytes each, every one of another chunk, as years of small changes leave them."""
    with RunWriter(made.reopened(), "1", made.recipients, host="h") as writer:
        names = [writer.put_data(number.to_bytes(4, "big") * (MIB // 4)) for number in range(chunks)]
        writer.commit(Snapshot("1", format_time(NOW), "h", "p", "ok", []))
    return [
        Member(b"%d" % number, b"", b"", b"", bytes(32), True, EXTENT.pack(names[number % chunks], 4 * number, 512))
        for number in range(3 * chunks)
    ]


def test_scattered_extents_are_read_in_bounded_memory(made: Made) -> None:
    members = scattered(made, 300)
    with ChunkReader(made.reopened()) as reader:
        reader.locate(next(members[0].chunk_ids()))
        tracemalloc.start()
        pieces = reader.extents(members)
        for number, piece in enumerate(pieces):
            assert piece == (number % 300).to_bytes(4, "big") * 128
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    print(f"peak: {peak / MIB:.1f} MiB")
    assert peak < 2 * AHEAD


def test_neighbours_come_as_one_piece(made: Made, rng: random.Random) -> None:
    data = rng.randbytes(1000)
    with RunWriter(made.reopened(), "1", made.recipients, host="h") as writer:
        name = writer.put_data(data)
        writer.commit(Snapshot("1", format_time(NOW), "h", "p", "ok", []))
    extents = [(0, 10), (10, 20), (40, 5), (45, 955), (0, 1)]
    members = [Member(b"", b"", b"", b"", b"", True, EXTENT.pack(name, *extent)) for extent in extents]
    with ChunkReader(made.reopened()) as reader:
        assert [bytes(piece) for piece in reader.extents(members)] == [data[:30], data[40:], data[:1]]
        assert list(reader.extents([])) == []
        outside = Member(b"", b"", b"", b"", b"", True, EXTENT.pack(name, 990, 11))
        with pytest.raises(IntegrityError, match=r"an extent ends at 1001 in a chunk of 1000 bytes"):
            list(reader.extents([outside]))


def test_a_reader_leaves_no_threads_behind(made: Made, rng: random.Random) -> None:
    snapshot = made.write("1", v=random_content(rng))
    before = threading.active_count()
    with ChunkReader(made.reopened()) as reader:
        next(reader.extents(reader.members(snapshot.targets[0])))
    assert threading.active_count() == before


def test_a_forged_tree_is_an_error_that_names_its_target(made: Made) -> None:
    with RunWriter(made.reopened(), "1", made.recipients, host="h") as writer:
        unknown = Member(b"a", b"", b"", b"", bytes(32), True, EXTENT.pack(bytes(32), 0, 512))
        target = Target("volume", "v", tree=[writer.put_tree(encode_member(unknown)).hex()])
        broken = Target("volume", "w", tree=[writer.put_tree(b"no records").hex()])
        writer.commit(Snapshot("1", format_time(NOW), "h", "p", "ok", [target, broken]))
    repository = made.reopened()
    with ChunkReader(repository) as reader:
        with pytest.raises(IntegrityError, match="in no index"):
            list(reader.extents(reader.members(target)))
        with pytest.raises(IntegrityError, match="the tree of volume w"):
            list(reader.members(broken))


def test_two_writers_at_once(made: Made, rng: random.Random) -> None:
    content = random_content(rng)
    runs = [RunWriter(made.reopened(), run, made.recipients, host="h") for run in ("1", "2")]
    for writer in runs:
        target = Target("volume", "v")
        put_content(made.repository, writer, target, content)
        writer.flush()
        writer.commit(Snapshot(writer.run_id, format_time(NOW), "h", "p", "ok", [target]))
    for writer in runs:
        writer.__exit__(None, None, None)
    assert read_everything(made.reopened()) == {"1": {"v": content}, "2": {"v": content}}
    # The second copy of each chunk serves when the first is lost.
    first = made.reopened()
    lost = pack_key(next(iter(first.index.pack_sizes)))
    del made.storage.objects[lost]
    assert read_everything(made.reopened()) == {"1": {"v": content}, "2": {"v": content}}


def test_an_identity_is_needed_by_name_only(made: Made) -> None:
    """Identities that open nothing do no harm beside the right one."""
    others: list[Identity] = [generate_identity() for _ in range(3)]
    assert Repository.open(made.storage, [*others, made.identity]).id == made.repository.id
