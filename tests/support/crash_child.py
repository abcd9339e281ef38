"""A process that does one thing to a repository, and kills itself before its Nth storage call.

python -m tests.support.crash_child ACTION URL CALL SEED    identity on stdin; CALL 0: never

For copy, URL is a directory that holds `source` and `mirror`, and the calls of both are counted together.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys

from drkit.operations.forget import forget
from drkit.repository import packs, writer
from drkit.repository.identity import parse_identity
from drkit.repository.repair import repair_index
from drkit.repository.repository import Repository
from tests.support.faulty_storage import Call, FaultyStorage
from tests.support.mirroring import copy_all
from tests.support.place import open_place
from tests.support.pruning import prune_now
from tests.support.repositories import Content, random_content, write_snapshot


def contents(seed: str) -> dict[str, Content]:
    """By run: `new` and `kept` hold some of what `old` holds, so that a prune of `old` has something to move."""
    old = random_content(random.Random(f"{seed} old"))
    some = dict(list(old.items())[:4])
    return {
        "old": old,
        "kept": {**random_content(random.Random(f"{seed} kept"), 3), **some},
        "new": {**random_content(random.Random(f"{seed} new"), 6), **some},
    }


def small_packs() -> None:
    """Many packs and index objects in a small run: more places to break off at."""
    packs.PACK_SIZE, writer.MAX_ENTRIES = 200_000, 8


def main(action: str, directory: str, call: int, seed: str) -> None:
    small_packs()
    identity = parse_identity(sys.stdin.read(), source="stdin")
    numbers = itertools.count(1)

    def on_call(made: Call) -> None:
        if next(numbers) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    def opened(place: str) -> FaultyStorage:
        return FaultyStorage(open_place(place), on_call=on_call)

    if action == "copy":
        copy_all(Repository.open(opened(f"{directory}/source"), [identity]), opened(f"{directory}/mirror"))
        print("done")
        return
    repository = Repository.open(opened(directory), [identity])
    if action == "backup":
        write_snapshot(repository, [identity.recipient], "new", {"v": contents(seed)["new"]})
    elif action == "prune":
        prune_now(repository, "prune-1", "old")
    elif action == "forget":
        forget(repository, ["old"], yes_really=True)
    elif action == "repair":
        repair_index(repository)
    print("done")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
