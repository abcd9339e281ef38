"""The commit protocol: the code's own step lists, explored in all interleavings; and mutants that must be caught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from drkit.repository.commit.protocol import BACKUP, PRUNE
from tests.support.protocol_model import (
    Actor,
    Found,
    Pack,
    Rules,
    World,
    explore,
    moved,
    pack,
    without,
)

OLD = frozenset({"old"})


def world(packs: Sequence[Pack], records: dict[str, str], keys: str = "k") -> World:
    """Each pack is listed in an index object of its own."""
    return World(
        packs=frozenset(packs),
        index=frozenset((f"i{number}", frozenset({each})) for number, each in enumerate(packs)),
        records=frozenset((run, frozenset(chunks)) for run, chunks in records.items()),
        keys=frozenset(keys.split()),
        acknowledged=frozenset(records),
    )


DEAD = world([pack("a", "0")], {})
FORGETTING = world([pack("a", "0")], {"old": "a"})
MOSTLY_DEAD = world([pack("ab", "0")], {"old": "a", "keep": "b"})
TWICE = world([pack("b", "0"), pack("b", "1")], {"keep": "b"})
UNUSED_KEY = world([pack("a", "0")], {}, keys="k kw1")

ONE, TWO = Actor("w1", "run", "a"), Actor("w2", "run", "a")
BOTH = Actor("w1", "run", "ab")
COPY = Actor("w2", "run", "b", copies=True)
G1, G2 = Actor("g1", "prune"), Actor("g2", "prune")
F1, F2 = Actor("g1", "prune", forgets=OLD), Actor("g2", "prune", forgets=OLD)
GARBLER = Actor("m", "garbler")
FORGET = Actor("f", "forget", forgets=frozenset({"keep"}))


def show(name: str, found: Found) -> None:
    print(f"{name}: {found.states} states, {found.violations} of them violate")
    if found.first is not None:
        now, steps = found.first
        print("\n".join([*steps, str(now)]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "start", "actors"),
    [
        ("two runs and a prune", FORGETTING, [ONE, TWO, F1]),
        ("a run and two prunes", FORGETTING, [ONE, F1, F2]),
        ("a run and two prunes that move a chunk", MOSTLY_DEAD, [BOTH, F1, F2]),
        ("a run, a copy and a prune that moves a chunk", MOSTLY_DEAD, [BOTH, COPY, F1]),
        ("a run and two prunes, a chunk in two packs", TWICE, [Actor("w1", "run", "b"), G1, G2]),
        (
            "a run, a copy, a prune and a forget, a chunk in two packs",
            TWICE,
            [Actor("w1", "run", "b"), COPY, G1, FORGET],
        ),
        ("two prunes and a forget", MOSTLY_DEAD, [F1, F2, FORGET]),
        ("a run, a prune and a garbler of marks", FORGETTING, [ONE, F1, GARBLER]),
        ("two runs, a prune and a garbler of marks", FORGETTING, [ONE, TWO, F1, GARBLER]),
        ("a run, two prunes and a garbler of marks", FORGETTING, [ONE, F1, F2, GARBLER]),
        ("a run, a prune that moves a chunk and a garbler of marks", MOSTLY_DEAD, [BOTH, F1, GARBLER]),
        ("a run, a prune and a garbler of marks, a chunk in two packs", TWICE, [Actor("w1", "run", "b"), G1, GARBLER]),
    ],
)
def test_no_interleaving_loses_a_chunk(name: str, start: World, actors: list[Actor]) -> None:
    found = explore(start, actors)
    show(name, found)
    assert found.states > 1000
    assert found.violations == 0


@pytest.mark.parametrize("same_key", [True, False], ids=["copies", "runs"])
@pytest.mark.parametrize(
    ("start", "actors"),
    [
        (FORGETTING, [ONE, TWO, F1]),
        (FORGETTING, [ONE, F1, F2]),
        (DEAD, [ONE, TWO, F1]),
        (MOSTLY_DEAD, [BOTH, COPY, F1]),
        (MOSTLY_DEAD, [BOTH, F1, F2]),
        (TWICE, [Actor("w1", "run", "b"), G1, G2]),
        (FORGETTING, [ONE, TWO, F1, GARBLER]),
        (MOSTLY_DEAD, [BOTH, COPY, F1, GARBLER]),
    ],
)
def test_no_interleaving_in_a_mirror_loses_a_chunk(start: World, actors: list[Actor], same_key: bool) -> None:
    found = explore(start, actors, Rules(same_key=same_key, keep_keys=True))
    show("in a mirror", found)
    assert found.states > 1000
    assert found.violations == 0


@pytest.mark.parametrize(
    ("start", "actors"),
    [
        pytest.param(FORGETTING, [ONE, TWO, F1], marks=pytest.mark.slow),
        (FORGETTING, [ONE, F1]),
        (DEAD, [ONE, TWO, G1]),
        (MOSTLY_DEAD, [BOTH, F1]),
        (MOSTLY_DEAD, [COPY, F1]),
        (MOSTLY_DEAD, [F1, F2]),
        (TWICE, [Actor("w1", "run", "b"), G1, FORGET]),
    ],
)
def test_no_put_that_the_store_drops_loses_a_chunk_or_a_record(start: World, actors: list[Actor]) -> None:
    found = explore(start, actors, Rules(drops=True))
    show("with a dropped put", found)
    assert found.states > explore(start, actors).states > 0
    assert found.violations == 0


def dropping(*unseen: str) -> dict[str, Any]:
    return {"drops": True, "unseen": frozenset(unseen)}


MUTANTS: dict[str, tuple[World, list[Actor], dict[str, Any]]] = {
    "a run reads marks before its session": (
        FORGETTING,
        [ONE, F1],
        {"backup": moved(BACKUP, "read_marks", before="open_session")},
    ),
    "a run reads the index before its session": (
        FORGETTING,
        [ONE, F1],
        {"backup": ("read_index", *without(BACKUP, "read_index", "list_packs"))},
    ),
    "a run ignores marks": (FORGETTING, [ONE, F1], {"writers_see_marks": False}),
    "a run takes a mark that does not open for none": (FORGETTING, [ONE, F1, GARBLER], {"wary_of_garbage": False}),
    "a run reads the index before the marks": (
        FORGETTING,
        [ONE, F1],
        {"backup": moved(BACKUP, "read_index", before="read_marks")},
    ),
    "a run commits blindly": (FORGETTING, [ONE, F1], {"blind_commit": True}),
    "a run closes its session before the commit": (
        FORGETTING,
        [ONE, F1],
        {"backup": moved(BACKUP, "close_session", before="create_record")},
    ),
    "a run commits before its index": (
        DEAD,
        [COPY],
        {"backup": moved(BACKUP, "create_record", before="store_index")},
    ),
    "names recur": (world([pack("a", "")], {"old": "a"}), [ONE, F1], {"salts": False}),
    "a prune stores no mark": (FORGETTING, [ONE, F1], {"prune": without(PRUNE, "store_mark")}),
    "a prune lists sessions before its mark": (
        FORGETTING,
        [ONE, F1],
        {"prune": moved(PRUNE, "list_sessions", before="store_mark")},
    ),
    "a prune reads again before it fences": (
        FORGETTING,
        [ONE, F1],
        {"prune": moved(PRUNE, "settle_sessions", before="store_packs")},
    ),
    "a prune deletes what it condemned, whatever it read again": (FORGETTING, [ONE, F1], {"spare_needed": False}),
    "a prune removes its mark before the packs": (
        FORGETTING,
        [ONE, F1],
        {"prune": moved(PRUNE, "delete_marks", before="replace_index")},
    ),
    "a prune deletes index objects before it has put the new ones": (
        world([pack("a", "0"), pack("b", "0")], {"keep": "b"})._replace(
            index=frozenset({("i", frozenset({pack("a", "0"), pack("b", "0")}))})
        ),
        [G1],
        {"put_before_delete": False},
    ),
    "a prune deletes packs before it has stored the index of those it moved": (
        MOSTLY_DEAD,
        [F1],
        {"prune": moved(PRUNE, "delete_packs", before="store_index")},
    ),
    "a prune deletes every key that is not in use": (UNUSED_KEY, [ONE, G1], {"old_keys_only": False}),
    "a prune that moves does not commit": (MOSTLY_DEAD, [BOTH, F1, F2], {"prune": without(PRUNE, "create_record")}),
    "a prune counts on packs that another one has marked": (
        FORGETTING,
        [ONE, F1, F2],
        {"respect_other_marks": False},
    ),
    "prunes do not wait for prunes": (MOSTLY_DEAD, [BOTH, F1, F2], {"wait_for_prunes": False}),
    "a prune deletes keys that a copy brings back": (FORGETTING, [ONE, F1, F2], {"same_key": True}),
    "a run does not look for its record": (DEAD, [ONE], dropping("run records")),
    "a run does not look for its wraps": (DEAD, [COPY], dropping("run keys")),
    "a run does not look for its index": (DEAD, [COPY], dropping("run index")),
    "a run does not look for its session": (FORGETTING, [ONE, F1], dropping("run sessions")),
    "a prune does not look for its mark": (FORGETTING, [ONE, F1], dropping("prune marks")),
    "a prune does not look for the tombstones it stores": (FORGETTING, [ONE, F1], dropping("prune records")),
    "a prune does not look for the index that it replaces": (MOSTLY_DEAD, [F1], dropping("prune index")),
    "a run does not list its packs": (
        DEAD,
        [COPY],
        {**dropping(), "backup": without(BACKUP, "list_packs")},
    ),
    "a prune does not list the packs it stored": (
        MOSTLY_DEAD,
        [F1],
        {**dropping(), "prune": without(PRUNE, "list_packs")},
    ),
    "a prune deletes records before it says so": (FORGETTING, [F1], {"notes_first": False}),
    "a note that is not there says nothing": (FORGETTING, [F1], dropping("prune notes")),
    "forget deletes records before it says so": (TWICE, [FORGET], {"notes_first": False}),
    "a run counts on chunks whose key is gone": (DEAD, [ONE, TWO, G1, G2], {"writers_see_keys": False, "fine": False}),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name: str) -> None:
    start, actors, changes = MUTANTS[name]
    found = explore(start, actors, Rules(**changes), stop=True)
    show(name, found)
    assert found.violations, "this mutant is as good as the original"


def test_the_listing_of_packs_before_the_commit_is_no_part_of_the_protocol() -> None:
    """Nothing that runs and prunes do makes it necessary; it is there for packs that something else has removed, and
    for those that the store acknowledged and dropped.

    tests/unit/repository/test_repository.py shows that it sees those.
    """
    assert explore(FORGETTING, [ONE, F1], Rules(backup=without(BACKUP, "list_packs"))).violations == 0


def test_the_code_takes_the_steps_of_the_lists() -> None:
    from drkit.repository.prune.prune import Prune
    from drkit.repository.writer import RunWriter

    for actor, steps in ((RunWriter, BACKUP), (Prune, PRUNE)):
        assert all(callable(getattr(actor, f"_{step}")) for step in steps)
