"""Two processes that copy into a mirror and two that prune it, all at once, round after round; the source grows."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

from drkit.errors import RepositoryLocked
from drkit.operations.copy import copy_into
from drkit.repository.commit import session
from drkit.repository.format import packs
from drkit.repository.keys.identity import Identity, parse_identity
from drkit.repository.mirror.mirror import open_mirror
from drkit.repository.prune.prune import Prune
from drkit.repository.repository import Repository
from drkit.storage import open_storage
from tests.support.mirroring import by_original, copy_all, make_mirror
from tests.support.pruning import ALL, prune_until_clean
from tests.support.race import HEARTBEAT, Outcome, but_the_last, content
from tests.support.repositories import create, write_snapshot


def race_copies(directory: str, rounds: int, seed: str) -> Outcome:
    """Race below `directory`; after each round all of the mirror is read and compared."""
    outcome = Outcome()
    url, mirror = f"{directory}/source", f"{directory}/mirror"
    source, identity = create(open_storage(url, create=True))
    make_mirror(source, open_storage(mirror, create=True))
    write_snapshot(source, [identity.recipient], "00000-run", {"v": content("00000-run", seed)})
    copy_all(source, open_storage(mirror))
    context = multiprocessing.get_context("forkserver")
    workers: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []
    for kind in ("copy-1", "copy-2", "prune-1", "prune-2"):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(kind, url, mirror, identity.secret_text(), theirs), daemon=True)
        process.start()
        workers.append((process, ours))
    try:
        for number in range(1, rounds + 1):
            run = f"{number:05d}-run"
            write_snapshot(source, [identity.recipient], run, {"v": content(run, seed)})
            for _, pipe in workers:
                pipe.send(run)
            answers = [pipe.recv() for _, pipe in workers]
            outcome.rounds = number
            _count(outcome, answers)
            _check(mirror, identity, seed, outcome, sure=run if any(run in copied for _, copied, _ in answers) else "")
    finally:
        for process, pipe in workers:
            pipe.send("")
            process.join()
    prune_until_clean(Repository.open(open_storage(mirror), [identity]))
    copy_all(Repository.open(open_storage(url), [identity]), open_storage(mirror))
    held = by_original(open_storage(mirror), identity)
    runs = [f"{number:05d}-run" for number in range(rounds + 1)]
    if held != {run: {"v": content(run, seed)} for run in runs}:
        outcome.violations.append("a rerun did not bring everything")
    return outcome


def _count(outcome: Outcome, answers: list[tuple[str, list[str], int]]) -> None:
    for what, copied, deleted in answers:
        outcome.committed += len(copied)
        outcome.deleted += deleted
        if what == "locked":
            outcome.locked += 1
        elif what == "fenced":
            outcome.fenced += 1
        elif what:
            outcome.violations.append(what)


def _check(mirror: str, identity: Identity, seed: str, outcome: Outcome, *, sure: str) -> None:
    held = by_original(open_storage(mirror), identity)
    wrong = [run for run, found in held.items() if found != {"v": content(run, seed)}]
    outcome.violations += [f"{run} is another" for run in wrong]
    if sure and sure not in held:
        outcome.violations.append(f"{sure} is gone")


def _work(kind: str, url: str, mirror: str, identity_text: str, pipe: Connection) -> None:
    packs.PACK_SIZE = 12_000
    session.HEARTBEAT_SECONDS = HEARTBEAT
    identity = parse_identity(identity_text, source="race")
    while run := pipe.recv():
        try:
            source = Repository.open(open_storage(url), [identity])
            opened = open_mirror(source, open_storage(mirror))
            if kind.startswith("copy"):
                done = copy_into(source, opened, host=kind)
                pipe.send(("; ".join(each.error for each in done.failed), [each.snapshot for each in done.copied], 0))
            else:
                deleted = Prune(opened, f"{run}-{kind}", but_the_last, ALL, host=kind).run().packs_deleted
                pipe.send(("", [], deleted))
        except RepositoryLocked:
            pipe.send(("fenced" if kind.startswith("copy") else "locked", [], 0))
        except Exception as error:  # noqa: BLE001 (told to whoever counts)
            pipe.send((f"{kind}: {type(error).__name__}: {error}", [], 0))
