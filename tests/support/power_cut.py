"""What a disk holds at some moment while drkit writes to it: an ext4 image on XFS, copied by reflink, mounted again.

Needs root, loop devices and xfsprogs. A copy is the disk as a power cut at that moment would leave it, but for what the
drive itself had still in its cache.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from drkit.errors import DrkitError
from drkit.repository.check import check_repository
from drkit.repository.format import packs
from drkit.repository.keys.identity import Identity, parse_identity
from drkit.repository.repository import Repository
from drkit.storage import open_storage
from tests.support.pruning import prune_now, prune_until_clean
from tests.support.race import KEPT, but_the_last, content
from tests.support.repositories import create, read_everything, write_snapshot

INNER_SIZE = "192M"


@dataclass
class States:
    states: int = 0
    acknowledged: int = 0
    """Snapshots that had to be there, over all states."""
    violations: list[str] = field(default_factory=list)


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def power_cuts(directory: Path, count: int, seed: str) -> States:
    """Back up and prune in an endless row; take `count` states meanwhile, then look at each of them."""
    outer, inner = directory / "outer.img", directory / "outer" / "inner.img"
    subprocess.run(["truncate", "-s", "4G", str(outer)], check=True)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(outer)], check=True)
    result = States()
    with mounted(outer, directory / "outer"):
        subprocess.run(["truncate", "-s", INNER_SIZE, str(inner)], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(inner)], check=True)
        taken = list(_take(directory, inner, count, seed))
        for number, (before, after, identity) in enumerate(taken):
            copy = inner.with_name(f"state-{number}")
            with mounted(copy, directory / "state"):
                _look(directory / "state" / "repository", identity, before, after, seed, number, result)
            copy.unlink()
    return result


def _take(directory: Path, inner: Path, count: int, seed: str) -> Iterator[tuple[list[str], list[str], Identity]]:
    """Yield, for each state, what had been acknowledged before it was taken and after."""
    log = directory / "acknowledged"
    rng = random.Random(seed)
    with mounted(inner, directory / "inner"):
        place = directory / "inner" / "repository"
        _, identity = create(open_storage(str(place), create=True))
        stop = multiprocessing.get_context("forkserver").Event()
        arguments = (str(place), identity.secret_text(), seed, str(log), stop)
        worker = multiprocessing.get_context("forkserver").Process(target=_work, args=arguments)
        worker.start()
        try:
            while len(_acknowledged(log)) < KEPT:
                time.sleep(0.01)
            for number in range(count):
                time.sleep(rng.random() * 0.15)
                before = _acknowledged(log)
                copy = inner.with_name(f"state-{number}")
                subprocess.run(["cp", "--reflink=always", str(inner), str(copy)], check=True)
                assert worker.is_alive(), "the worker failed"
                yield before, _acknowledged(log), identity
        finally:
            stop.set()
            worker.join()
    assert worker.exitcode == 0


def _acknowledged(log: Path) -> list[str]:
    return (
        [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        if (log.exists())
        else []
    )


def _work(place: str, identity_text: str, seed: str, log: str, stop: object) -> None:
    packs.PACK_SIZE = 12_000
    identity = parse_identity(identity_text, source="power cut")
    number = 0
    with Path(log).open("a") as said:
        while not stop.is_set():  # type: ignore[attr-defined]
            number += 1
            opened = Repository.open(open_storage(place), [identity])
            if number % 3 == 0:
                prune_now(opened, f"{number:05d}-prune", *but_the_last(_snapshots(opened)))
                continue
            run = f"{number:05d}-run"
            write_snapshot(opened, [identity.recipient], run, {"v": content(run, seed)})
            said.write(json.dumps(run) + "\n")
            said.flush()


def _snapshots(repository: Repository) -> list:  # type: ignore[type-arg]
    return [record for record in repository.snapshots() if not isinstance(record, DrkitError)]


def _look(
    place: Path, identity: Identity, before: list[str], after: list[str], seed: str, number: int, result: States
) -> None:
    """What was acknowledged before and cannot have been forgotten until after must be there, and all else be right."""
    result.states += 1
    needed = set(before) & set(after[-KEPT:])
    result.acknowledged += len(needed)

    def opened() -> Repository:
        return Repository.open(open_storage(str(place)), [identity])

    try:
        found = read_everything(opened())
        wrong = [f"{run} is gone" for run in needed - found.keys()]
        wrong += [f"{run} is another" for run, held in found.items() if held != {"v": content(run, seed)}]
        wrong += [f"check: {finding.object}" for finding in check_repository(opened()).findings.values()]
        write_snapshot(opened(), [identity.recipient], "later", {"v": content("later", seed)})
        prune_until_clean(opened())
        if read_everything(opened()).keys() != found.keys() | {"later"}:
            wrong.append("the next prune lost something")
    except (DrkitError, AssertionError) as error:
        wrong = [str(error)]
    result.violations += [f"state {number}: {text}" for text in wrong]
