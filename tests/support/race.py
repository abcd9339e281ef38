"""Two processes that back up and two that prune, all at once, on one repository, round after round."""

from __future__ import annotations

import multiprocessing
import os
import random
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from drkit.errors import DrkitError, RepositoryLocked
from drkit.repository.check import check_repository
from drkit.repository.commit import session
from drkit.repository.format import packs
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.keys.identity import Identity, parse_identity
from drkit.repository.prune.prune import Prune
from drkit.repository.repository import Repository
from tests.support.place import environment, open_place
from tests.support.pruning import ALL, prune_until_clean
from tests.support.repositories import Content, create, read_everything, write_snapshot

KEPT = 4
"""Snapshots that a prune leaves: few, so that chunks die and come back all the time."""
HEARTBEAT = 0.2


@dataclass
class Outcome:
    rounds: int = 0
    committed: int = 0
    fenced: int = 0
    locked: int = 0
    moved: int = 0
    deleted: int = 0
    violations: list[str] = field(default_factory=list)


def content(run: str, seed: str) -> Content:
    """What a run stores: members out of a small pool, which others use too, and one of its own."""
    pool = {b"%02d" % number: random.Random(f"{seed} {number}").randbytes(4000) for number in range(12)}
    rng = random.Random(f"{seed} {run}")
    return {**{path: pool[path] for path in rng.sample(sorted(pool), 4)}, b"own": rng.randbytes(4000)}


def race(url: str, rounds: int, seed: str) -> Outcome:
    """Race in a new repository at `url`; after each round everything is read and compared, at the end once more."""
    outcome = Outcome()
    _, identity = create(open_place(url, create=True))
    opened = Repository.open(open_place(url), [identity])
    write_snapshot(opened, [identity.recipient], "00000-first", {"v": content("00000-first", seed)})
    context = multiprocessing.get_context("forkserver")
    workers: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []
    for kind in ("backup-1", "backup-2", "prune-1", "prune-2"):
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_work, args=(kind, url, identity.secret_text(), seed, theirs, environment()), daemon=True
        )
        process.start()
        workers.append((process, ours))
    try:
        for number in range(1, rounds + 1):
            for _, pipe in workers:
                pipe.send(f"{number:05d}")
            acknowledged = []
            for _, pipe in workers:
                _count(outcome, acknowledged, pipe.recv())
            _check(url, identity, seed, acknowledged, outcome, number)
    finally:
        for process, pipe in workers:
            pipe.send("")
            process.join()
    _check_end(url, identity, outcome)
    return outcome


def _count(outcome: Outcome, acknowledged: list[str], said: tuple[str, str, int, int]) -> None:
    what, run, moved, deleted = said
    outcome.moved += moved
    outcome.deleted += deleted
    if what == "committed":
        outcome.committed += 1
        acknowledged.append(run)
    elif what == "locked":
        outcome.locked += 1
    elif what == "fenced":
        outcome.fenced += 1
    elif what != "pruned":
        outcome.violations.append(f"{run}: {what}")


def _check(url: str, identity: Identity, seed: str, acknowledged: list[str], outcome: Outcome, number: int) -> None:
    outcome.rounds = number
    try:
        found = read_everything(Repository.open(open_place(url), [identity]))
    except DrkitError as error:
        outcome.violations.append(f"round {number}: {error}")
        return
    outcome.violations += [f"round {number}: {run} is gone" for run in acknowledged if run not in found]
    outcome.violations += [
        f"round {number}: {run} is another" for run, held in found.items() if held != {"v": content(run, seed)}
    ]


def _check_end(url: str, identity: Identity, outcome: Outcome) -> None:
    opened = Repository.open(open_place(url), [identity])
    report = check_repository(opened)
    outcome.violations += [f"check: {finding.object}: {finding.problem}" for finding in report.findings.values()]
    try:
        prune_until_clean(opened)
    except AssertionError as error:
        outcome.violations.append(str(error))


def _work(kind: str, url: str, identity_text: str, seed: str, pipe: Connection, env: dict[str, str]) -> None:
    os.environ.update(env)
    packs.PACK_SIZE = 12_000
    session.HEARTBEAT_SECONDS = HEARTBEAT
    identity = parse_identity(identity_text, source="race")
    while round_ := pipe.recv():
        run = f"{round_}-{kind}"
        try:
            opened = Repository.open(open_place(url), [identity])
            if kind.startswith("backup"):
                write_snapshot(opened, [identity.recipient], run, {"v": content(run, seed)})
                pipe.send(("committed", run, 0, 0))
            else:
                done = Prune(opened, run, but_the_last, ALL, host=kind).run()
                pipe.send(("pruned", run, done.packs_stored, done.packs_deleted))
        except RepositoryLocked:
            pipe.send(("fenced" if kind.startswith("backup") else "locked", run, 0, 0))
        except Exception as error:  # noqa: BLE001 (told to whoever counts)
            pipe.send((f"{type(error).__name__}: {error}", run, 0, 0))


def but_the_last(snapshots: list[Snapshot]) -> set[str]:
    return {snapshot.id for snapshot in sorted(snapshots, key=lambda snapshot: snapshot.id)[:-KEPT]}
