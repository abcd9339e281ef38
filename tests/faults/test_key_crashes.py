"""SIGKILL at every storage call of a change of the keys: at all times somebody opens everything; a rerun ends it."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from drkit.errors import AccessDenied, DrkitError
from drkit.operations.keys import list_keys
from drkit.repository.check import check_repository
from drkit.repository.identity import Identity, generate_identity, parse_identity
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.snapshot import Snapshot
from drkit.storage import open_storage
from tests.support.killed import change_keys
from tests.support.repositories import NOW, random_content, read_everything, write_snapshot

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "repository-1"
PROCESSES = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Case:
    """A change that `who` makes. `before` and `after`: who opens everything; whoever else was there opens nothing."""

    base: Path
    who: Identity
    verb: str
    recipients: list[str]
    before: list[Identity]
    after: list[Identity]
    read: Callable[[Repository], object]


@pytest.fixture
def alice() -> Identity:
    return generate_identity()


@pytest.fixture
def bob() -> Identity:
    return generate_identity()


@pytest.fixture
def carol() -> Identity:
    return generate_identity()


@pytest.fixture
def base(tmp_path: Path, alice: Identity, bob: Identity, rng: random.Random) -> Path:
    """A repository of alice's and bob's with two data keys."""
    directory = tmp_path / "base"
    storage = open_storage(str(directory), create=True)
    recipients = [alice.recipient, bob.recipient]
    Repository.create(storage, alice, recipients, now=NOW)
    for run in ("1", "2"):
        content = {"v": random_content(rng, files=3)}
        write_snapshot(Repository.open(storage, [alice]), recipients, run, content)
    return directory


def killed(case: Case, directory: Path, call: int) -> bool:
    """Whether the change was killed at this call; False when it ended before."""
    arguments = (directory, case.who.secret_text(), case.verb, case.recipients, call)
    process = PROCESSES.Process(target=change_keys, args=arguments)
    process.start()
    process.join(120)
    code = process.exitcode
    process.close()
    assert code in (0, -signal.SIGKILL)
    return code != 0


def opens_everything(case: Case, directory: Path, identity: Identity) -> bool:
    """Whether an identity opens the repository; then it has to open all that is in it."""
    try:
        repository = Repository.open(open_storage(str(directory)), [identity])
    except AccessDenied:
        return False
    case.read(repository)
    return True


def sweep(case: Case, tmp_path: Path) -> int:
    """Kill at every call; the number of calls."""
    for call in range(1, 1000):
        directory = tmp_path / str(call)
        shutil.copytree(case.base, directory)
        was_killed = killed(case, directory, call)
        able = [identity for identity in {*case.before, *case.after} if opens_everything(case, directory, identity)]
        assert case.who in able
        assert set(able) >= set(case.before) or set(able) >= set(case.after)
        assert check_repository(Repository.open(open_storage(str(directory)), [case.who])).ok
        rerun(case, directory)
        able = [identity for identity in {*case.before, *case.after} if opens_everything(case, directory, identity)]
        assert set(able) == set(case.after)
        opened = Repository.open(open_storage(str(directory)), [case.who])
        found = list_keys(opened)
        assert check_repository(opened).ok
        assert {holder.recipient for holder in found.holders} == {identity.recipient for identity in case.after}
        assert all(holder.complete(found.keys) for holder in found.holders)
        assert found.unlabelled == 0
        shutil.rmtree(directory)
        if not was_killed:
            print(f"{case.verb}: N = {call - 1} storage calls, each the last of a process")
            return call - 1
    raise AssertionError("it never ended")


def rerun(case: Case, directory: Path) -> None:
    try:
        change_keys(directory, case.who.secret_text(), case.verb, case.recipients)
    except DrkitError as error:
        # What was complete already: there is nobody left to be removed.
        assert case.verb == "remove", error
        assert "is no recipient of this repository" in error.message


def test_add_killed_at_any_storage_call(
    tmp_path: Path, base: Path, alice: Identity, bob: Identity, carol: Identity
) -> None:
    case = Case(base, alice, "add", [carol.recipient], [alice, bob], [alice, bob, carol], read_everything)
    assert sweep(case, tmp_path) > 20


def test_remove_killed_at_any_storage_call(tmp_path: Path, base: Path, alice: Identity, bob: Identity) -> None:
    case = Case(base, alice, "remove", [bob.recipient], [alice, bob], [alice], read_everything)
    assert sweep(case, tmp_path) > 10


def test_rewrap_killed_at_any_storage_call(
    tmp_path: Path, base: Path, alice: Identity, bob: Identity, carol: Identity
) -> None:
    recipients = [alice.recipient, carol.recipient]
    case = Case(base, alice, "rewrap", recipients, [alice, bob], [alice, carol], read_everything)
    assert sweep(case, tmp_path) > 30


def test_rewrap_of_a_repository_without_labels_killed_at_any_storage_call(tmp_path: Path, carol: Identity) -> None:
    """The frozen one: nobody knows whom its second wraps are for, and they go."""
    owner = parse_identity((GOLDEN / "identity.txt").read_text(), source="identity.txt")
    second = parse_identity((GOLDEN / "escrow-identity.txt").read_text(), source="escrow-identity.txt")
    shutil.copytree(GOLDEN / "repository", tmp_path / "base")
    expected = json.loads((GOLDEN / "expected.json").read_text())["tars"]

    def read(repository: Repository) -> None:
        records = [record for record in repository.snapshots() if isinstance(record, Snapshot)]
        assert {record.id for record in records} == set(expected)
        with ChunkReader(repository) as reader:
            for record in records:
                for target in record.targets:
                    for _ in reader.extents(reader.members(target)):
                        pass

    case = Case(
        tmp_path / "base",
        owner,
        "rewrap",
        [owner.recipient, carol.recipient],
        [owner, second],
        [owner, carol],
        read,
    )
    assert sweep(case, tmp_path) > 30
