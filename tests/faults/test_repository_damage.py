"""Every object of a repository damaged in every way, and a backup that breaks off at every storage call.

The rule: what is read is what was written, or an error names the object. Never a wrong success.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from drkit.errors import AccessDenied, DrkitError, IntegrityError, RepositoryNotFound, StorageUnavailable
from drkit.repository import index as index_module
from drkit.repository.check import Report, check_repository
from drkit.repository.format import packs as packs_module
from drkit.repository.format.packs import DATA_MAGIC, HEADER_SIZE, TRAILER
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.keys.identity import Identity, generate_identity
from drkit.repository.keys.wraps import put_escrow
from drkit.repository.repository import CONFIG, Repository
from drkit.repository.writer import RunWriter
from tests.support.faulty_storage import FaultyStorage
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import (
    Content,
    create,
    random_content,
    read_content,
    read_everything,
    write_snapshot,
)

# --- damage -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Original:
    """A repository with two objects of each kind, where there can be two. `escrow` is the second recipient."""

    objects: dict[str, bytes]
    identity: Identity
    escrow: Identity
    content: dict[str, dict[str, Content]]

    def copy(self) -> MemoryStorage:
        storage = MemoryStorage()
        storage.objects.update(self.objects)
        return storage

    def keys(self, kind: str) -> list[str]:
        return [key for key in sorted(self.objects) if KINDS[kind](key, self.objects[key])]

    def wraps_of(self, kind: str, identity: Identity) -> list[str]:
        return [key for key in self.keys(kind) if identity.unwrap(self.objects[key]) is not None]


KINDS: dict[str, Callable[[str, bytes], bool]] = {
    "config": lambda key, body: key == CONFIG,
    "meta wrap": lambda key, body: key.startswith("keys/meta/"),
    "data wrap": lambda key, body: (
        key.startswith("keys/") and key.split("/")[1] not in ("meta", "escrow", "recipients")
    ),
    "escrow": lambda key, body: key.startswith("keys/escrow/"),
    "label": lambda key, body: key.startswith("keys/recipients/"),
    "data pack": lambda key, body: key.startswith("packs/") and body.startswith(DATA_MAGIC),
    "tree pack": lambda key, body: key.startswith("packs/") and not body.startswith(DATA_MAGIC),
    "index": lambda key, body: key.startswith("index/"),
    "snapshot": lambda key, body: key.startswith("snapshots/"),
    "session": lambda key, body: key.startswith("sessions/"),
    "mark": lambda key, body: key.startswith("marks/"),
}


@pytest.fixture(scope="module")
def original(seed: int) -> Original:
    rng = random.Random(seed)
    storage = MemoryStorage()
    escrow = generate_identity()
    repository, identity = create(storage, escrow)
    put_escrow(storage, repository.objects, identity, "passphrase")
    content = {}
    for run in ("1", "2"):
        content[run] = {"v": random_content(rng), "w": random_content(rng)}
        recipients = [identity.recipient, escrow.recipient]
        write_snapshot(Repository.open(storage, [identity]), recipients, run, content[run])
        storage.put(f"sessions/{run}/0", repository.objects.seal("session", run.encode(), b"{}"))
        storage.put(f"marks/{run}", repository.objects.seal("mark", run.encode(), bytes(32)))
    made = Original(storage.objects, identity, escrow, content)
    counts = {kind: len(made.keys(kind)) for kind in KINDS}
    assert counts == {**dict.fromkeys(KINDS, 2), "config": 1, "data wrap": 4, "escrow": 1, "label": 4}
    assert sum(counts.values()) == len(storage.objects)
    return made


@dataclass(frozen=True)
class Outcome:
    """What reading all gave: snapshots that came back right, and the errors, each of which named an object."""

    right: list[str]
    errors: list[DrkitError]

    @property
    def objects(self) -> set[str]:
        return {error.object_name for error in self.errors if isinstance(error, IntegrityError)}


def read(original: Original, storage: MemoryStorage, identity: Identity | None = None) -> Outcome:
    """Read every snapshot of a damaged repository. Fails the test for content that differs."""
    right: list[str] = []
    errors: list[DrkitError] = []
    try:
        repository = Repository.open(storage, [identity or original.identity])
        for snapshot in repository.snapshots():
            if not isinstance(snapshot, Snapshot):
                errors.append(snapshot)
                continue
            try:
                found = {target.name: read_content(repository, target) for target in snapshot.targets}
            except DrkitError as error:
                errors.append(error)
            else:
                assert found == original.content[snapshot.id]
                right.append(snapshot.id)
    except DrkitError as error:
        errors.append(error)
    for damage in errors:
        if isinstance(damage, IntegrityError):
            assert damage.exit_code == 20
            assert damage.object_name in damage.message
            assert damage.hint
    return Outcome(right, errors)


def check(original: Original, storage: MemoryStorage) -> Report:
    return check_repository(Repository.open(storage, [original.escrow]))


def test_without_damage_all_is_right(original: Original) -> None:
    assert read(original, original.copy()) == Outcome(["1", "2"], [])
    assert read(original, original.copy(), original.escrow) == Outcome(["1", "2"], [])
    report = check(original, original.copy())
    assert report.ok, report.findings
    assert report.objects > 10
    assert report.bytes > 0


def flip(body: bytes, position: int) -> bytes:
    position %= len(body)
    return body[:position] + bytes([body[position] ^ 0x10]) + body[position + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "first bit": lambda body: flip(body, 0),
    "a bit in the middle": lambda body: flip(body, len(body) // 2),
    "last bit": lambda body: flip(body, -1),
    "one byte short": lambda body: body[:-1],
    "half": lambda body: body[: len(body) // 2],
    "empty": lambda body: b"",
    "one byte more": lambda body: body + b"\0",
}


@pytest.fixture(params=list(DAMAGE))
def damage(request: pytest.FixtureRequest) -> Callable[[bytes], bytes]:
    return DAMAGE[request.param]


def damaged(original: Original, key: str, change: Callable[[bytes], bytes]) -> MemoryStorage:
    storage = original.copy()
    storage.objects[key] = change(storage.objects[key])
    return storage


def deleted(original: Original, key: str) -> MemoryStorage:
    storage = original.copy()
    del storage.objects[key]
    return storage


def swapped(original: Original, one: str, two: str) -> MemoryStorage:
    storage = original.copy()
    storage.objects[one], storage.objects[two] = storage.objects[two], storage.objects[one]
    return storage


def test_config(original: Original, damage: Callable[[bytes], bytes]) -> None:
    storage = damaged(original, CONFIG, damage)
    outcome = read(original, storage)
    if outcome.errors:
        assert (outcome.right, outcome.objects) == ([], {CONFIG})
    else:
        # A change that JSON does not see, such as the blank at the end.
        assert outcome.right == ["1", "2"]


def test_config_deleted_or_of_another_repository(original: Original) -> None:
    [error] = read(original, deleted(original, CONFIG)).errors
    assert isinstance(error, RepositoryNotFound)
    other = MemoryStorage()
    create(other)
    storage = original.copy()
    storage.objects[CONFIG] = other.objects[CONFIG]
    outcome = read(original, storage)
    assert outcome.right == []
    [error] = outcome.errors
    assert isinstance(error, IntegrityError)
    assert "key of another repository" in error.message


@pytest.mark.parametrize("kind", ["meta wrap", "data wrap"])
def test_wraps(original: Original, kind: str, damage: Callable[[bytes], bytes]) -> None:
    key = original.wraps_of(kind, original.identity)[0]
    storage = damaged(original, key, damage)
    outcome = read(original, storage)
    assert outcome.objects == {key}
    assert len(outcome.right) == (0 if kind == "meta wrap" else 1)
    # The other recipient's wrap suffices, and check tells what is wrong with this one.
    assert read(original, storage, original.escrow) == Outcome(["1", "2"], [])
    assert list(check(original, storage).findings) == [key]


@pytest.mark.parametrize("kind", ["meta wrap", "data wrap"])
def test_wraps_deleted_or_swapped(original: Original, kind: str) -> None:
    ours, theirs = original.wraps_of(kind, original.identity)[0], original.wraps_of(kind, original.escrow)[0]
    outcome = read(original, deleted(original, ours))
    assert all(isinstance(error, AccessDenied) for error in outcome.errors)
    assert len(outcome.errors) == 1
    assert read(original, deleted(original, ours), original.escrow) == Outcome(["1", "2"], [])
    outcome = read(original, swapped(original, ours, theirs))
    assert outcome.errors
    assert outcome.objects <= {ours, theirs}


def test_all_wraps_of_a_data_key_deleted(original: Original) -> None:
    key = original.keys("data wrap")[0]
    prefix = key.rpartition("/")[0] + "/"
    storage = original.copy()
    for name in original.keys("data wrap"):
        if name.startswith(prefix):
            del storage.objects[name]
    outcome = read(original, storage)
    assert outcome.objects == {prefix}
    assert len(outcome.right) == 1
    [finding] = check(original, storage).findings.values()
    assert finding.object == prefix
    assert len(finding.snapshots) == 1
    assert finding.files


def test_escrow(original: Original, damage: Callable[[bytes], bytes]) -> None:
    [key] = original.keys("escrow")
    storage = damaged(original, key, damage)
    assert read(original, storage) == Outcome(["1", "2"], [])
    assert list(check(original, storage).findings) == [key]


def test_a_wrong_identity_is_told_apart_from_damage(original: Original) -> None:
    [denied] = read(original, original.copy(), generate_identity()).errors
    assert isinstance(denied, AccessDenied)
    assert denied.exit_code == 12
    ours = original.wraps_of("meta wrap", original.identity)[0]
    [broken] = read(original, damaged(original, ours, lambda body: flip(body, 50))).errors
    assert isinstance(broken, IntegrityError)
    assert "damaged" in broken.message
    assert "damaged" not in denied.message


def parts_of_pack(body: bytes) -> dict[str, range]:
    """Where each part of a pack lies."""
    length, _ = TRAILER.unpack(body[-TRAILER.size :])
    directory = len(body) - TRAILER.size - length
    return {
        "magic": range(8),
        "salt": range(8, HEADER_SIZE),
        "chunks": range(HEADER_SIZE, directory),
        "directory": range(directory, directory + length),
        "trailer": range(directory + length, len(body)),
    }


@pytest.mark.parametrize("part", ["magic", "salt", "chunks", "directory", "trailer"])
@pytest.mark.parametrize("kind", ["data pack", "tree pack"])
def test_a_bit_in_each_part_of_a_pack(original: Original, kind: str, part: str, rng: random.Random) -> None:
    for key in original.keys(kind):
        for _ in range(8):
            position = rng.choice(parts_of_pack(original.objects[key])[part])
            storage = damaged(original, key, lambda body, position=position: flip(body, position))  # type: ignore[misc]
            outcome = read(original, storage)
            findings = check(original, storage).findings
            if part == "chunks":
                assert outcome.objects == {key}
                assert len(outcome.right) == 1
                # check opens no data; verify does.
                assert list(findings) == ([key] if kind == "tree pack" else [])
            else:
                # Readers go by the index; who rebuilds the index needs the rest.
                assert outcome == Outcome(["1", "2"], [])
                assert list(findings) == [key]
            if findings:
                assert len(findings[key].snapshots) == 1


@pytest.mark.parametrize("kind", ["data pack", "tree pack"])
@pytest.mark.parametrize("how", ["one byte short", "half", "empty"])
def test_packs_cut_short(original: Original, kind: str, how: str) -> None:
    for key in original.keys(kind):
        storage = damaged(original, key, DAMAGE[how])
        outcome = read(original, storage)
        assert outcome.objects <= {key}
        if how != "one byte short":
            assert outcome.objects == {key}
        finding = check(original, storage).findings[key]
        assert len(finding.snapshots) == 1
        assert finding.files


@pytest.mark.parametrize("kind", ["data pack", "tree pack"])
def test_packs_deleted_or_swapped(original: Original, kind: str) -> None:
    one, two = original.keys(kind)
    for key in (one, two):
        storage = deleted(original, key)
        outcome = read(original, storage)
        assert (outcome.objects, len(outcome.right)) == ({key}, 1)
        [finding] = check(original, storage).findings.values()
        assert (finding.object, len(finding.snapshots)) == (key, 1)
        assert "missing" in finding.problem
    storage = swapped(original, one, two)
    assert read(original, storage) == Outcome(["1", "2"], [])  # each chunk is found in the other pack
    assert set(check(original, storage).findings) == {one, two}


def test_index_objects(original: Original, damage: Callable[[bytes], bytes]) -> None:
    for key in original.keys("index"):
        storage = damaged(original, key, damage)
        assert read(original, storage) == Outcome(["1", "2"], [])  # the packs tell what they hold
        assert list(check(original, storage).findings) == [key]
        # A backup goes on, and counts only on what it can be sure of.
        repository = Repository.open(storage, [original.identity])
        write_snapshot(repository, [original.identity.recipient], "3", original.content["1"])
        storage_content = read_everything(Repository.open(storage, [original.identity]))
        assert storage_content == {**original.content, "3": original.content["1"]}


def test_index_objects_deleted_or_swapped(original: Original) -> None:
    one, two = original.keys("index")
    for key in (one, two):
        storage = deleted(original, key)
        assert read(original, storage) == Outcome(["1", "2"], [])
        findings = check(original, storage).findings
        assert findings
        assert all("in no index" in finding.problem for finding in findings.values())
        assert len({snapshot for finding in findings.values() for snapshot in finding.snapshots}) == 1
    storage = swapped(original, one, two)
    assert read(original, storage) == Outcome(["1", "2"], [])
    assert set(check(original, storage).findings) == {one, two}


def test_snapshots(original: Original, damage: Callable[[bytes], bytes]) -> None:
    for key in original.keys("snapshot"):
        storage = damaged(original, key, damage)
        outcome = read(original, storage)
        assert (outcome.objects, len(outcome.right)) == ({key}, 1)
        assert list(check(original, storage).findings) == [key]


def test_snapshots_swapped(original: Original) -> None:
    one, two = original.keys("snapshot")
    storage = swapped(original, one, two)
    outcome = read(original, storage)
    assert (outcome.objects, outcome.right) == ({one, two}, [])
    assert set(check(original, storage).findings) == {one, two}


def test_a_deleted_snapshot_takes_nothing_else_along(original: Original) -> None:
    """That it is gone shows nowhere: FORMAT.md says so."""
    storage = deleted(original, original.keys("snapshot")[0])
    assert read(original, storage) == Outcome(["2"], [])
    assert check(original, storage).ok


def test_sessions(original: Original, damage: Callable[[bytes], bytes]) -> None:
    for key in original.keys("session"):
        assert read(original, damaged(original, key, damage)) == Outcome(["1", "2"], [])
        assert read(original, deleted(original, key)) == Outcome(["1", "2"], [])
    assert read(original, swapped(original, *original.keys("session"))) == Outcome(["1", "2"], [])


def test_marks(original: Original, damage: Callable[[bytes], bytes]) -> None:
    """A reader needs none. A writer that cannot read one cannot tell what is condemned, and relies on nothing older."""
    damaged_ones = {key: damaged(original, key, damage) for key in original.keys("mark")}
    for key, storage in [*damaged_ones.items(), ("", swapped(original, *original.keys("mark")))]:
        assert read(original, storage) == Outcome(["1", "2"], [])
        repository = Repository.open(storage, [original.identity])
        chunk_id = next(iter(repository.index.samples().values()))
        with RunWriter(repository, "3", [original.identity.recipient], host="h") as writer:
            assert writer.unreadable_mark is not None
            assert writer.unreadable_mark.object_name == key or not key
            assert writer.chunk_size(chunk_id) is None
        assert set(check(original, storage).findings) == ({key} if key else set(original.keys("mark")))


def test_random_damage_is_never_a_wrong_success(original: Original, rng: random.Random) -> None:
    keys = sorted(original.objects)
    for _ in range(400):
        storage = original.copy()
        hurt = rng.sample(keys, rng.choice([1, 1, 2, 3]))
        for key in hurt:
            how = rng.random()
            if how < 0.15:
                del storage.objects[key]
            elif how < 0.3:
                storage.objects[key] = storage.objects[rng.choice(sorted(storage.objects))]
            elif how < 0.5:
                body = storage.objects[key]
                storage.objects[key] = body[: rng.randrange(len(body))]
            else:
                storage.objects[key] = flip(storage.objects[key], rng.randrange(len(storage.objects[key])))
        outcome = read(original, storage)
        prefixes = {key.rpartition("/")[0] + "/" for key in hurt}
        for error in outcome.errors:
            if isinstance(error, IntegrityError):
                # Where an index object and the pack it lists are both gone, nothing is left but the name of the chunk.
                unknown = error.object_name.startswith("chunk ") and len(hurt) > 1
                assert unknown or error.object_name in {*hurt, *prefixes}, (hurt, error)
            else:
                assert isinstance(error, AccessDenied | RepositoryNotFound)
        if CONFIG in storage.objects:
            try:
                report = check(original, storage)
            except DrkitError:
                continue
            # What cannot be read although its pack looks whole is for verify to find.
            unseen = {key for key in outcome.objects if not key.startswith("chunk ")} - set(report.findings)
            assert all(key in original.keys("data pack") for key in unseen)


# --- breaking off -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many packs and index objects in a small run: more places to break off at."""
    monkeypatch.setattr(packs_module, "PACK_SIZE", 200_000)
    monkeypatch.setattr(index_module, "MAX_ENTRIES", 8)


Break = Callable[[FaultyStorage, int], None]


def fails_once(storage: FaultyStorage, call: int) -> None:
    storage.fail(StorageUnavailable("no answer"), call=call)


def reply_is_lost(storage: FaultyStorage, call: int) -> None:
    storage.fail(StorageUnavailable("no answer"), call=call, after=True)


def stays_away(storage: FaultyStorage, call: int) -> None:
    storage.fail(StorageUnavailable("no answer"), call=call, times=10**6)


def interrupted(storage: FaultyStorage, call: int) -> None:
    storage.fail(KeyboardInterrupt(), call=call)


@pytest.mark.usefixtures("small_objects")
@pytest.mark.parametrize("breaks", [fails_once, reply_is_lost, stays_away, interrupted])
def test_a_backup_that_breaks_off_at_any_storage_call(breaks: Break, rng: random.Random) -> None:
    inner = MemoryStorage()
    repository, identity = create(inner, generate_identity())
    old, new = ({"v": random_content(rng), "w": random_content(rng)} for _ in range(2))
    new["v"].update(old["w"])  # so that some is taken over
    write_snapshot(repository, [identity.recipient], "1", old)
    before = dict(inner.objects)
    calls = failures = 0
    for call in range(1, 1000):
        inner.objects = dict(before)
        storage = FaultyStorage(inner)
        breaks(storage, call)
        acknowledged = False
        try:
            write_snapshot(Repository.open(storage, [identity]), [identity.recipient], "2", new)
            acknowledged = True
        except (StorageUnavailable, KeyboardInterrupt):
            failures += 1
        if len(storage.calls) < call:
            calls = call - 1
            break
        found = read_everything(Repository.open(inner, [identity]))
        assert found.pop("1") == old
        assert found == {"2": new} or (found == {} and not acknowledged), call
        assert check_repository(Repository.open(inner, [identity])).ok
        write_snapshot(Repository.open(inner, [identity]), [identity.recipient], "3", new)
        assert read_everything(Repository.open(inner, [identity]))["3"] == new
        assert check_repository(Repository.open(inner, [identity])).ok
    print(f"{breaks.__name__}: N = {calls} storage calls, {failures} runs failed")
    assert calls > 15
    # A listing may be left as soon as what was looked for is found: then its lost end goes unnoticed.
    assert failures >= calls - 1
