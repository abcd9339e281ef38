"""drkit verify: what it reads, once; what it names; and trees that only a writer with a fault can store."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock
from weakref import WeakSet

import pytest

from drkit.operations.export import write_tar
from drkit.operations.verify import verify_repository, verify_subset
from drkit.pipeline import verify as verify_module
from drkit.pipeline.stream import MemberStream
from drkit.repository import pack_cache, pack_reader, reader
from drkit.repository.check import Report, check_packs, check_repository
from drkit.repository.format import packs as packs_module
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.kinds import Status
from drkit.repository.format.packs import DATA_MAGIC, HEADER_SIZE
from drkit.repository.format.snapshot import Snapshot, Target, format_time
from drkit.repository.format.tree import EXTENT, Member, TreeWriter, encode_member
from drkit.repository.keys.identity import Identity
from drkit.repository.keys.wraps import TREE_KEY_ID
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from tests.support.counting_storage import CountingStorage
from tests.support.events import RecordedEvents
from tests.support.forged_index import HARMLESS, LIES, tell
from tests.support.host_tar import capture_directory
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import NOW, create

# --- trees that do not say what their stream holds --------------------------------------------------------------------


def store(directory: Path, change: Callable[[list[Member]], list[Member]]) -> Repository:
    """A repository with one snapshot of a directory, its tree changed."""
    for name in ("a", "b", "c"):
        (directory / name).write_text(name)
    storage = MemoryStorage()
    repository, identity = create(storage)
    with RunWriter(repository, "run", [identity.recipient], host="host") as writer, ChunkReader(repository) as reader:
        target = Target("volume", "data")
        capture_directory(repository, writer, target, directory)
        writer.flush()
        tree = TreeWriter(writer.put_tree)
        for member in change(list(reader.members(target))):
            tree.add(encode_member(member))
        target.tree = [chunk_id.hex() for chunk_id in tree.finish()]
        writer.commit(Snapshot("run", format_time(NOW), "host", "policy", Status.OK, [target]))
    return Repository.open(storage, [identity])


def test_a_true_tree(tmp_path: Path) -> None:
    assert verify_repository(store(tmp_path, lambda members: members), None).ok


@pytest.mark.parametrize("name", [b"a", b"c"])
def test_a_member_that_holds_another_one_too_is_named(tmp_path: Path, name: bytes) -> None:
    def change(members: list[Member]) -> list[Member]:
        more = members[2].extents
        return [member._replace(extents=member.extents + more) if member.path == name else member for member in members]

    report = verify_repository(store(tmp_path, change), None)
    assert not report.ok
    [finding] = report.findings.values()
    assert "do not make up a tar stream" in finding.problem
    [file] = finding.files
    assert file.endswith(name.decode())


# --- repositories of many packs ---------------------------------------------------------------------------------------

SCALE = 400
"""How much smaller than in earnest packs and buffers are."""
PACK_SIZE = packs_module.PACK_SIZE // SCALE
CHUNK = 4000

Contents = dict[bytes, bytes]


@pytest.fixture(autouse=True)
def _small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs_module, "PACK_SIZE", PACK_SIZE)
    monkeypatch.setattr(pack_cache, "HELD", pack_cache.HELD // SCALE)
    monkeypatch.setattr(pack_reader, "TAIL_SIZE", pack_reader.TAIL_SIZE // 8)  # directories do not shrink as much
    monkeypatch.setattr(reader, "AHEAD", reader.AHEAD // SCALE)


def member_bytes(path: bytes, content: bytes) -> bytes:
    header = tarfile.TarInfo(path.decode())
    header.size = len(content)
    return header.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)


def random_member(rng: random.Random, path: bytes) -> bytes:
    return member_bytes(path, rng.randbytes(rng.choice([200, 1000, 3000, 20_000, 60_000])))


def changed(rng: random.Random, contents: Contents, share: float) -> Contents:
    """Some members replaced, and as many with a few other bytes in the middle, as databases do it."""
    new = dict(contents)
    for path in rng.sample(sorted(contents), int(len(contents) * share)):
        old = new[path]
        at = rng.randrange(512, len(old) - 100)
        new[path] = rng.choice([random_member(rng, path), old[:at] + rng.randbytes(100) + old[at + 100 :]])
    return new


def write(
    storage: MemoryStorage,
    identity: Identity,
    run_id: str,
    contents: Mapping[bytes, bytes],
    change: Callable[[Member], Member] = lambda member: member,
) -> None:
    repository = Repository.open(storage, [identity])
    with RunWriter(repository, run_id, [identity.recipient], host="host") as writer:
        tree = TreeWriter(writer.put_tree)
        for path, data in sorted(contents.items()):
            pieces = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
            extents = b"".join(EXTENT.pack(writer.put_data(piece), 0, len(piece)) for piece in pieces)
            digest = keyed_digest(repository.meta.member, data)
            member = Member(path, b"f 644 0 0 5 1.5 1.5 7 1", b"", b"", digest, True, extents)
            tree.add(encode_member(change(member)))
        target = Target("volume", "v", tree=[chunk_id.hex() for chunk_id in tree.finish()])
        writer.commit(Snapshot(run_id, format_time(NOW), "host", "policy", Status.OK, [target]))


class Made:
    """A repository, opened afresh for every reading."""

    def __init__(self) -> None:
        self.storage = CountingStorage(request_size=6 * 1024 * 1024 // SCALE)
        _, self.identity = create(self.storage)
        self.events = RecordedEvents()

    def copy(self) -> Made:
        other = Made.__new__(Made)
        other.storage = CountingStorage(request_size=self.storage.traits.request_size)
        other.storage.objects = dict(self.storage.objects)
        other.identity, other.events = self.identity, RecordedEvents()
        return other

    def read(self, look: Callable[[Repository], Report]) -> Report:
        repository = Repository.open(self.storage, [self.identity])
        self.storage.reset()
        return look(repository)

    def verify(self) -> Report:
        return self.read(lambda repository: verify_repository(repository, None, self.events))

    @property
    def size(self) -> int:
        return sum(self.storage.packs.values())

    def files_in(self, key: str, runs: Iterable[str]) -> set[str]:
        """The files of these snapshots that need a chunk in this pack."""
        repository = Repository.open(self.storage, [self.identity])
        files = set()
        with ChunkReader(repository) as chunks:
            for record in repository.snapshots():
                assert isinstance(record, Snapshot)
                for member in chunks.members(record.targets[0]) if record.id in runs else ():
                    if any(key.endswith(chunks.locate(chunk).pack_id.hex()) for chunk in member.chunk_ids()):
                        files.add(f"volume v: {member.path.decode()}")
        return files


def make(seed: int, files: int, nights: int) -> Made:
    """`nights` snapshots after the first one share most packs with those before."""
    rng = random.Random(seed)
    made = Made()
    with mock.patch.object(packs_module, "PACK_SIZE", PACK_SIZE):
        contents = {path: random_member(rng, path) for path in (b"%04d" % number for number in range(files))}
        for night in range(nights + 1):
            write(made.storage, made.identity, f"run-{night}", contents)
            contents = changed(rng, contents, 0.05)
    return made


@pytest.fixture(scope="module")
def first(seed: int) -> Made:
    """As after a first backup."""
    return make(seed, files=1200, nights=0)


@pytest.fixture(scope="module")
def shared(seed: int) -> Made:
    """As after some weeks: what one snapshot needs lies in packs of many runs."""
    return make(seed, files=400, nights=25)


@pytest.fixture(scope="module")
def undamaged(seed: int) -> Made:
    return make(seed, files=80, nights=2)


def test_verify_reads_each_pack_once(first: Made) -> None:
    report = first.verify()
    assert report.ok, report.findings
    packs = len(first.storage.packs)
    assert packs > 200
    assert sum(first.storage.whole.values()) == packs
    assert max(first.storage.whole.values()) == 1
    print(f"{packs} packs of {first.size} bytes: {first.storage.requests} requests, {first.storage.bytes} bytes")
    assert first.storage.requests < 1.05 * packs, "what is more reads trees again"
    assert first.storage.bytes < 1.05 * first.size
    assert first.events.bytes["verify"] > 0.9 * first.size


def test_verify_reads_shared_packs_once_and_some_of_their_chunks_again(shared: Made) -> None:
    report = shared.verify()
    assert report.ok, report.findings
    packs = len(shared.storage.packs)
    assert packs > 100
    assert sum(shared.storage.whole.values()) == packs
    assert max(shared.storage.whole.values()) == 1
    print(f"{packs} packs of {shared.size} bytes: {shared.storage.requests} requests, {shared.storage.bytes} bytes")
    assert shared.storage.bytes < 1.8 * shared.size


@pytest.mark.parametrize("held", [1, 1 << 30])
def test_what_was_dropped_early_is_read_by_ranges(shared: Made, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(pack_cache, "HELD", held)
    report = shared.verify()
    assert report.ok, report.findings
    assert max(shared.storage.whole.values()) == 1
    assert (shared.storage.bytes < 1.2 * shared.size) == (held > 1)


def test_check_asks_twice_for_a_directory_and_once_for_a_small_pack(first: Made) -> None:
    report = first.read(check_repository)
    assert report.ok
    packs = first.storage.packs
    small = sum(size <= pack_reader.TAIL_SIZE for size in packs.values())
    trees = first.storage.requests - 2 * (len(packs) - small) - small
    print(f"{len(packs)} packs: {first.storage.requests} requests, {trees} of them for trees")
    assert 0 < trees < 0.1 * len(packs)


def test_check_of_packs_asks_once_for_each(first: Made) -> None:
    report = first.read(lambda repository: check_packs(repository, first.events))
    assert report.ok
    assert set(first.storage.whole) == set(first.storage.packs)
    assert first.storage.requests < 1.05 * len(first.storage.packs)
    assert first.events.bytes["check"] == first.size


def test_a_subset_reads_each_chosen_pack_once(first: Made) -> None:
    report = first.read(lambda repository: verify_subset(repository, 30, "seed", first.events))
    assert report.ok
    chosen = sum(first.storage.whole.values())
    assert max(first.storage.whole.values()) == 1
    assert 0.15 * len(first.storage.packs) < chosen < 0.45 * len(first.storage.packs)
    assert first.storage.requests < chosen + 2.1 * (len(first.storage.packs) - chosen)
    again = first.read(lambda repository: verify_subset(repository, 30, "seed"))
    assert (again.ok, sum(first.storage.whole.values())) == (True, chosen)


# --- what it names ----------------------------------------------------------------------------------------------------


@pytest.fixture
def made(undamaged: Made) -> Made:
    return undamaged.copy()


def flip(made: Made, key: str, position: int) -> None:
    body = bytearray(made.storage.objects[key])
    body[position] ^= 1
    made.storage.objects[key] = bytes(body)


@pytest.mark.parametrize("instead", [False, True])
@pytest.mark.parametrize("lie", sorted(LIES.keys() - HARMLESS))
def test_an_index_object_that_lies_is_named_and_hides_nothing(
    made: Made, rng: random.Random, lie: str, instead: bool
) -> None:
    """Members are verified and exported from where they are, and each pack is still read whole once."""
    opened = Repository.open(made.storage, [made.identity])
    forged = tell(opened, lie, rng, instead=instead, first=True)
    report = made.verify()
    assert list(report.findings) == [forged]
    assert report.findings[forged].files == []
    assert set(made.storage.whole) == set(made.storage.packs)
    assert report.error is not None
    assert report.error.exit_code == 20
    subset = made.read(lambda repository: verify_subset(repository, 100, "all"))
    assert list(subset.findings) == [forged]
    opened = Repository.open(made.storage, [made.identity])
    for record in opened.snapshots():
        assert isinstance(record, Snapshot)
        with ChunkReader(opened) as chunks:
            record.targets[0].files = sum(1 for _ in chunks.members(record.targets[0]))
        write_tar(opened, record.targets[0], io.BytesIO().write)  # compares every member with its digest
    assert any("the index" in error.message for error in opened.damage)


@pytest.mark.parametrize("held", [1, 1 << 30])
@pytest.mark.parametrize("part", ["salt", "chunk", "directory"])
def test_a_damaged_pack_is_named_with_all_that_it_hits(
    made: Made, rng: random.Random, monkeypatch: pytest.MonkeyPatch, part: str, held: int
) -> None:
    monkeypatch.setattr(pack_cache, "HELD", held)
    repository = Repository.open(made.storage, [made.identity])
    location = repository.index.get(rng.choice([*repository.index.samples().values()]))
    assert location is not None
    key = f"packs/{location.pack_id.hex()[:2]}/{location.pack_id.hex()}"
    place = {"salt": HEADER_SIZE - 1, "chunk": location.offset + 20, "directory": -30}[part]
    tree = location.key_id == TREE_KEY_ID
    hit = set() if tree else made.files_in(key, ("run-0", "run-1", "run-2"))
    flip(made, key, place)
    report = made.verify()
    assert list(report.findings) == [key]
    finding = report.findings[key]
    assert finding.snapshots
    assert "its bytes are not those it was named after" in finding.problem
    if not tree:
        assert set(finding.files) == hit
    subset = made.read(lambda repository: verify_subset(repository, 100, "all"))
    assert list(subset.findings) == [key]
    assert made.read(check_packs).findings[key].snapshots == finding.snapshots


def test_a_damaged_pack_that_nothing_needs_is_named(made: Made) -> None:
    before = set(made.storage.packs)
    write(made.storage, made.identity, "forgotten", {b"x": member_bytes(b"x", bytes(range(256)) * 10)})
    del made.storage.objects["snapshots/forgotten"]
    for key in set(made.storage.packs) - before:
        flip(made, key, 100)
    report = made.verify()
    assert set(report.findings) == set(made.storage.packs) - before
    assert all(finding.snapshots == [] for finding in report.findings.values())


def test_a_missing_pack_is_named(made: Made) -> None:
    key = next(iter(made.storage.packs))
    hit = made.files_in(key, ("run-0", "run-1", "run-2"))
    del made.storage.objects[key]
    finding = made.verify().findings[key]
    assert finding.snapshots == ["run-0", "run-1", "run-2"]
    assert hit <= set(finding.files)


def test_a_member_with_another_digest_is_named(made: Made) -> None:
    contents = {path: member_bytes(path, path * 200) for path in (b"p", b"q", b"r")}
    write(
        made.storage,
        made.identity,
        "wrong",
        contents,
        lambda member: member._replace(digest=bytes(32)) if member.path == b"q" else member,
    )
    report = made.verify()
    [finding] = report.findings.values()
    assert (finding.object, finding.snapshots, finding.files) == ("snapshots/wrong", ["wrong"], ["volume v: q"])
    assert made.read(check_repository).ok, "the structure is whole"


def test_many_files_without_their_pack_do_not_pile_up_in_memory(first: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """They all meet the same error, and an error keeps what it went through: with each file a buffer of 9 MiB."""
    alive: WeakSet[MemberStream] = WeakSet()
    most = 0

    class Watched(MemberStream):
        def __init__(self, *arguments: Any) -> None:
            nonlocal most
            super().__init__(*arguments)
            alive.add(self)
            most = max(most, len(alive))

    damaged = first.copy()
    data = [key for key in damaged.storage.packs if damaged.storage.objects[key].startswith(DATA_MAGIC)]
    gone = data[::2]
    for key in gone:
        del damaged.storage.objects[key]
    monkeypatch.setattr(verify_module, "MemberStream", Watched)
    report = damaged.verify()
    assert len(report.findings) == len(gone)
    assert sum(len(each.files) for each in report.findings.values()) > 100
    assert 0 < most < 5


def test_a_chunk_under_the_name_of_another_is_found_in_a_subset(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a hostile host that holds the meta key stores one."""
    repository = Repository.open(made.storage, [made.identity])
    before = set(made.storage.packs)
    with RunWriter(repository, "poison", [made.identity.recipient], host="host") as writer:
        monkeypatch.setattr(repository.chunks, "chunk_id", lambda data, *, tree: bytes(32))
        writer.put_data(b"not what its name says")
        writer.keep()
    [key] = set(made.storage.packs) - before
    report = made.read(lambda repository: verify_subset(repository, 100, "all"))
    assert list(report.findings) == [key]
    assert "holds another content than its name says" in report.findings[key].problem


def test_one_snapshot_alone(shared: Made) -> None:
    def verify_last(repository: Repository) -> Report:
        last = [record for record in repository.snapshots() if isinstance(record, Snapshot)][-1]
        return verify_repository(repository, [last], shared.events)

    assert shared.read(verify_last).ok
    assert not sum(shared.storage.whole.values()), "only the chunks it needs are read"
    assert shared.storage.bytes < shared.size
