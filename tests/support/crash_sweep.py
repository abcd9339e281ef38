"""An action on a repository, killed before its Nth storage call, for every N, in any storage.

Afterwards, whatever N: what was acknowledged is whole; the same action again, the next backup and the next prune need
no help; and nothing is left that the next prune does not take along.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from drkit.errors import AccessDenied, DrkitError
from drkit.operations.forget import forget_snapshots
from drkit.operations.keys import add_recipient, key_list, remove_recipient, rewrap_keys
from drkit.repository import index
from drkit.repository.check import check_repository
from drkit.repository.format import packs
from drkit.repository.format.snapshot import Previous
from drkit.repository.keys.identity import Identity, generate_identity, parse_identity
from drkit.repository.repair import repair_index
from drkit.repository.repository import Repository
from drkit.storage import is_s3
from drkit.storage.local.reserve import NAME as RESERVE
from tests.support.faulty_storage import Call, FaultyStorage
from tests.support.forged_index import LIES, forge, true_listings
from tests.support.memory_storage import MemoryStorage
from tests.support.mirroring import by_original, copy_all, make_mirror, related_contents
from tests.support.place import environment, open_place
from tests.support.pruning import prune_now, prune_until_clean
from tests.support.repositories import Content, create, random_content, read_everything, write_snapshot

KEY_ACTIONS = ("add", "remove", "rewrap")
ACTIONS = ("backup", "prune", "forget", "repair", "copy", *KEY_ACTIONS)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.support.crash_sweep"])

Objects = Mapping[str, bytes]


@dataclass(frozen=True)
class Story:
    """An action of `who`, the objects it finds in each place, and what must hold in such places afterwards.

    `check` is told the URL above the places, the call, and whether the action came to its end; it asserts.
    """

    action: str
    who: Identity
    arguments: tuple[str, ...]
    places: Mapping[str, Objects]
    check: Callable[[str, int, bool], None]


@dataclass(frozen=True)
class Swept:
    action: str
    last: int
    """The last of the calls tried; where all are, the first that the action never came to."""
    killed: int

    def __str__(self) -> str:
        return f"{self.action}: killed before {self.killed} storage calls, the last tried is number {self.last}"


def sweep(story: Story, url: str, calls: Iterable[int] | None = None) -> Swept:
    """Kill before every call, or before those of these numbers, each time in fresh places below `url`."""
    call = killed = 0
    with small_packs():
        for call in calls or itertools.count(1):
            places = {f"{url}/{call}/{name}": objects for name, objects in story.places.items()}
            for place, objects in places.items():
                fill(place, objects)
            ended = run(story, f"{url}/{call}", call)
            killed += not ended
            try:
                story.check(f"{url}/{call}", call, ended)
            except (AssertionError, DrkitError) as error:
                raise AssertionError(f"{story.action}, killed before call {call}: {error}") from error
            for place in places:
                empty(place)
            if ended:
                break
    return Swept(story.action, call, killed)


@contextmanager
def small_packs() -> Iterator[None]:
    """Many packs and index objects in a small run: more places to break off at."""
    with mock.patch.object(packs, "PACK_SIZE", 120_000), mock.patch.object(index, "MAX_ENTRIES", 8):
        yield


def fill(place: str, objects: Objects) -> None:
    storage = open_place(place, create=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: storage.put(*item), objects.items()))


def empty(place: str) -> None:
    if is_s3(place):
        storage = open_place(place)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(storage.delete, [info.key for info in storage.list("")]))
    else:
        shutil.rmtree(place)


# --- the process that is killed ---------------------------------------------------------------------------------------


def run(story: Story, url: str, kill_at: int = 0) -> bool:
    """Do it in a process of its own, killed before a call, or never; whether it came to its end."""
    process = PROCESSES.Process(
        target=_act, args=(url, story.action, story.who.secret_text(), story.arguments, kill_at, environment())
    )
    process.start()
    process.join(120)
    code = process.exitcode
    process.close()
    assert code in (0, -signal.SIGKILL), f"{story.action} ended with {code}, its traceback is on stderr"
    return code == 0


def _act(url: str, action: str, secret: str, arguments: tuple[str, ...], kill_at: int, env: dict[str, str]) -> None:
    os.environ.update(env)
    numbers = itertools.count(1)

    def on_call(call: Call) -> None:
        if next(numbers) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def opened(place: str) -> FaultyStorage:
        return FaultyStorage(open_place(f"{url}/{place}"), on_call=on_call)

    identity = parse_identity(secret, source="sweep")
    with small_packs():
        repository = Repository.open(opened("repository"), [identity])
        match action:
            case "backup":
                write_snapshot(
                    repository,
                    [identity.recipient],
                    "new",
                    {"v": contents(arguments[0])["new"]},
                    number=3,
                    previous=Previous("kept", 2),
                )
            case "prune":
                prune_now(repository, "prune-1", "old")
            case "forget":
                forget_snapshots(repository, ["old"], yes_really=True)
            case "repair":
                repair_index(repository)
            case "copy":
                copy_all(repository, opened("mirror"))
            case "add":
                add_recipient(repository, arguments[0], "new")
            case "remove":
                remove_recipient(repository, arguments[0])
            case "rewrap":
                rewrap_keys(repository, arguments)
            case _:
                raise ValueError(action)


# --- stories ----------------------------------------------------------------------------------------------------------


def story(action: str, seed: str) -> Story:
    with small_packs():
        if action == "copy":
            return _copy(seed)
        return _keys(action, seed) if action in KEY_ACTIONS else _run(action, seed)


def contents(seed: str) -> dict[str, Content]:
    """By run: `new` and `kept` hold some of what `old` holds, so that a prune of `old` has something to move."""
    old = random_content(random.Random(f"{seed} old"), 22)
    some = dict(list(old.items())[::4])
    return {
        "old": old,
        "kept": {**random_content(random.Random(f"{seed} kept"), 3), **some},
        "new": {**random_content(random.Random(f"{seed} new"), 6), **some},
    }


def _run(action: str, seed: str) -> Story:
    storage = MemoryStorage()
    repository, identity = create(storage)
    made = {run: {"v": content} for run, content in contents(seed).items()}
    write_snapshot(repository, [identity.recipient], "old", made["old"], number=1)
    write_snapshot(repository, [identity.recipient], "kept", made["kept"], number=2, previous=Previous("old", 1))
    if action == "repair":
        _spoil_index(repository, storage, random.Random(f"{seed} index"))

    def check(url: str, call: int, ended: bool) -> None:
        def opened() -> Repository:
            return Repository.open(open_place(f"{url}/repository"), [identity])

        found = read_everything(opened())
        assert found == {run: made[run] for run in found}
        assert found.keys() >= {"kept"}
        if action in ("backup", "repair"):
            assert "old" in found
        if action == "backup":
            assert "new" in found or not ended
        report = check_repository(opened())
        assert report.ok or action == "repair", report.findings
        before = Previous("new", 3) if "new" in found else Previous("kept", 2)
        write_snapshot(opened(), [identity.recipient], "later", made["new"], number=4, previous=before)
        if action == "repair":
            repair_index(opened())
        assert prune_until_clean(opened(), "old") <= 2
        require_no_temp_files(f"{url}/repository")
        after = read_everything(opened())
        assert after == {**{run: made[run] for run in found if run != "old"}, "later": made["new"]}
        assert check_repository(opened()).ok

    return Story(action, identity, (seed,), {"repository": storage.objects}, check)


def _spoil_index(repository: Repository, storage: MemoryStorage, rng: random.Random) -> None:
    """Delete some index objects, damage some, and forge two: about packs that others list rightly, and about others."""
    packs = true_listings(repository)
    for number, key in enumerate(sorted(index.index_keys(storage))):
        if number % 3 == 0:
            storage.delete(key)
        elif number % 3 == 1:
            storage.objects[key] = b"damage"
    forge(repository, LIES["shifted offsets"](packs[::2], rng))
    forge(repository, [*LIES["half of the entries"](packs[1::4], rng), *packs[3::4]])


def _copy(seed: str) -> Story:
    place, mirror = MemoryStorage(), MemoryStorage()
    source, identity = create(place)
    runs = ("20250301t000000z-aaaaaaaa", "20250302t000000z-bbbbbbbb", "20250303t000000z-cccccccc")
    made = related_contents(random.Random(f"{seed} copy"), runs)
    for number, each in enumerate(runs, 1):
        before = Previous(runs[number - 2], number - 1) if number > 1 else None
        write_snapshot(source, [identity.recipient], each, made[each], number=number, previous=before)
    make_mirror(source, mirror)
    copy_all(source, mirror, runs[0])

    def check(url: str, call: int, ended: bool) -> None:
        there = open_place(f"{url}/mirror")

        def opened(name: str) -> Repository:
            return Repository.open(open_place(f"{url}/{name}"), [identity])

        for turn in range(2):  # pruned before it is run again, and not
            held = by_original(there, identity)
            assert held == {run: made[run] for run in held}
            assert runs[0] in held
            assert held == made or not ended
            assert check_repository(opened("mirror")).ok
            if turn == call % 2:
                prune_until_clean(opened("mirror"))
        done = copy_all(opened("repository"), there)
        assert (len(done.copied), done.failed) == (len(made) - len(held), [])
        assert by_original(there, identity) == made
        assert check_repository(opened("mirror")).ok
        assert check_repository(opened("repository")).ok
        assert read_everything(opened("repository")) == made
        prune_until_clean(opened("mirror"))
        require_no_temp_files(f"{url}/mirror")
        assert by_original(there, identity) == made

    return Story("copy", identity, (), {"repository": place.objects, "mirror": mirror.objects}, check)


def _keys(action: str, seed: str) -> Story:
    """A change that alice makes of the keys of a repository of hers and bob's with two data keys."""
    storage = MemoryStorage()
    bob, carol = generate_identity(), generate_identity()
    repository, alice = create(storage, bob)
    for each in ("1", "2"):
        content = {"v": random_content(random.Random(f"{seed} {each}"), files=3)}
        write_snapshot(repository, [alice.recipient, bob.recipient], each, content)
    arguments, after = {
        "add": ((carol.recipient,), [alice, bob, carol]),
        "remove": ((bob.recipient,), [alice]),
        "rewrap": ((alice.recipient, carol.recipient), [alice, carol]),
    }[action]
    return key_story(action, alice, arguments, storage.objects, [alice, bob], after, read_everything)


def key_story(
    action: str,
    who: Identity,
    arguments: tuple[str, ...],
    objects: Objects,
    before: list[Identity],
    after: list[Identity],
    read: Callable[[Repository], object],
) -> Story:
    """`before` and `after`: who opens everything, which `read` does; whoever else was there opens nothing."""

    def able(url: str) -> set[Identity]:
        return {identity for identity in {*before, *after} if opens_everything(url, identity)}

    def opens_everything(url: str, identity: Identity) -> bool:
        try:
            repository = Repository.open(open_place(f"{url}/repository"), [identity])
        except AccessDenied:
            return False
        read(repository)
        return True

    def check(url: str, call: int, ended: bool) -> None:
        found = able(url)
        assert who in found
        assert found >= set(before) or found >= set(after)
        assert check_repository(Repository.open(open_place(f"{url}/repository"), [who])).ok
        try:
            _act(url, action, who.secret_text(), arguments, 0, {})
        except DrkitError as error:
            # What was complete already: there is nobody left to be removed.
            assert action == "remove", error
            assert "is not a recipient of this repository" in error.message
        assert able(url) == set(after)
        opened = Repository.open(open_place(f"{url}/repository"), [who])
        keys = key_list(opened)
        assert check_repository(opened).ok
        assert {holder.recipient for holder in keys.holders} == {identity.recipient for identity in after}
        assert all(holder.complete(keys.keys) for holder in keys.holders)
        assert keys.unlabelled == 0

    return Story(action, who, arguments, {"repository": objects}, check)


def require_no_temp_files(place: str) -> None:
    if not is_s3(place):
        left = (path.name for path in (Path(place) / "tmp").iterdir())
        assert [name for name in left if not name.startswith(RESERVE)] == []
