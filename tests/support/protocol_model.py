"""A model of runs and prunes that takes the code's own step lists (commit/protocol.py) and explores them all.

Every actor may be delayed for ever before each step, and each listing, put and delete is a step of its own. A crash is
a delay that never ends: nothing in the repository tells the two apart, and whatever the others do after a crash they do
in the states that are explored here. A prune may fence whoever is in its way at any time: staleness is a guess, so
nothing may depend on it.

A chunk is a letter. A pack is its contents and its salt; contents are pairs of chunk and key. An index object is a set
of packs under a name. The invariant, in every state: each chunk of each committed snapshot is in a pack that is there,
that an index object lists, and whose key is there; and each record that was acknowledged is there, or a note says that
it was removed on purpose.

With `drops` the store acknowledges one put, whichever it likes, and keeps nothing. Whoever stored it looks for it, and
gives up; packs are looked for together, before the commit.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from drkit.repository.commit.protocol import BACKUP, PRUNE

FENCED = "fenced"
GARBAGE = "garbage"
"""What a mark lists that nobody can open: damaged, or planted."""

Contents = frozenset[tuple[str, str]]
Pack = tuple[Contents, str]


class World(NamedTuple):
    packs: frozenset[Pack] = frozenset()
    index: frozenset[tuple[str, frozenset[Pack]]] = frozenset()
    marks: frozenset[tuple[str, frozenset[Any]]] = frozenset()
    sessions: frozenset[str] = frozenset()
    records: frozenset[tuple[str, Any]] = frozenset()
    keys: frozenset[str] = frozenset()
    acknowledged: frozenset[str] = frozenset()
    notes: frozenset[str] = frozenset()
    dropped: bool = False

    def record(self, run: str) -> Any:
        return next((value for name, value in self.records if name == run), None)

    def needed(self) -> frozenset[str]:
        return frozenset().union(*(value for _, value in self.records if value != FENCED))

    def listed(self) -> frozenset[Pack]:
        return frozenset().union(*(packs for _, packs in self.index))

    def is_whole(self) -> bool:
        if not self.acknowledged <= self.notes | {run for run, value in self.records if value != FENCED}:
            return False
        there = {chunk for pack in self.listed() & self.packs for chunk, key in pack[0] if key in self.keys}
        return self.needed() <= there


def pack(contents: str, salt: str, key: str = "k") -> Pack:
    return frozenset((chunk, key) for chunk in contents), salt


@dataclass(frozen=True)
class Rules:
    """What the actors do. A mutant differs from the default in one thing."""

    backup: Sequence[str] = BACKUP
    prune: Sequence[str] = PRUNE
    salts: bool = True
    blind_commit: bool = False
    spare_needed: bool = True
    """A condemned pack that turned out to be needed stays."""
    respect_other_marks: bool = True
    give_way: bool = True
    """Two prunes give way to each other."""
    wait_for_prunes: bool = True
    old_keys_only: bool = True
    """Only keys that were there before the mark are deleted."""
    settled_marks_only: bool = True
    """Only marks that were there before our session are removed with our own."""
    writers_see_marks: bool = True
    wary_of_garbage: bool = True
    """To a run, a mark that does not open condemns everything that was there before."""
    writers_see_keys: bool = True
    """A chunk whose key is gone or condemned counts as absent."""
    same_key: bool = False
    """Runs bring chunks along under a key that others bring too, as copies do: the names of its wraps recur."""
    keep_keys: bool = False
    """Prunes delete no key, as in a mirror."""
    put_before_delete: bool = True
    notes_first: bool = True
    """A note says that records go before they do."""
    drops: bool = False
    unseen: frozenset[str] = frozenset()
    """What is not looked for after it was stored, as an actor's kind and a field of World: "run keys"."""
    fine: bool = True
    """Each listing is a step of its own; else those of one reading of the index are one step."""


@dataclass(frozen=True)
class Actor:
    """A run, a prune, a forget, or a garbler, who makes one mark unreadable at any time, or plants one that is.

    `wants`: the chunks of a run's snapshot. `copies`: it stores them all again, as a copy from elsewhere does.

    `forgets`: the records that a prune removes by its retention, or that `forget` does.
    """

    name: str
    kind: str
    wants: str = ""
    copies: bool = False
    forgets: frozenset[str] = frozenset()


@dataclass
class Found:
    states: int = 0
    violations: int = 0
    first: tuple[World, list[str]] | None = None
    ends: set[tuple[str, ...]] = field(default_factory=set)


END = -1
Local = tuple[tuple[str, Any], ...]
Place = tuple[int, Local]
"""Where an actor stands: the number of its next step, and what it knows."""
Move = tuple[World, int, Local]
Outcome = tuple[World, str, dict[str, Any]]


class _Numbers:
    """Gives equal things the same small number: states are then compared and kept cheaply."""

    def __init__(self) -> None:
        self.things: list[Any] = []
        self._known: dict[Any, int] = {}

    def of(self, thing: Any) -> int:
        number = self._known.get(thing)
        if number is None:
            number = self._known[thing] = len(self.things)
            self.things.append(thing)
        return number


def explore(world: World, actors: Sequence[Actor], rules: Rules | None = None, *, stop: bool = False) -> Found:
    """Visit every state that can be reached. `stop` at the first violation, and tell how it came about."""
    gc.disable()  # there are no cycles among the millions of states, and looking for them takes half of the time
    try:
        return _explore(world, actors, rules or Rules(), stop=stop)
    finally:
        gc.enable()


def _explore(world: World, actors: Sequence[Actor], made: Rules, *, stop: bool) -> Found:
    machines = [_machine(actor, made) for actor in actors]
    worlds, places = _Numbers(), _Numbers()
    whole: dict[int, bool] = {}
    known: list[dict[tuple[int, int], list[tuple[int, int]]]] = [{} for _ in actors]

    def moves(actor: int, now: int, place: int) -> list[tuple[int, int]]:
        step, local = places.things[place]
        if step == END:
            return []
        return [
            (worlds.of(after), places.of((then, kept)))
            for after, then, kept in machines[actor](worlds.things[now], step, local)
        ]

    start = (worlds.of(world), *(places.of((0, ())) for _ in actors))
    seen = {start}
    stack: list[tuple[tuple[int, ...], Any]] = [(start, None)]
    found = Found()
    while stack:
        state, trace = stack.pop()
        now = state[0]
        found.states += 1
        fine = whole.get(now)
        if fine is None:
            fine = whole[now] = worlds.things[now].is_whole()
        if not fine:
            found.violations += 1
            if stop:
                found.first = (worlds.things[now], _unwind(trace))
                return found
            continue
        for number in range(len(actors)):
            here = (now, state[number + 1])
            there = known[number].get(here)
            if there is None:
                there = known[number][here] = moves(number, *here)
            for after, place in there:
                reached = (after, *state[1 : number + 1], place, *state[number + 2 :])
                if reached not in seen:
                    seen.add(reached)
                    step = (trace, actors[number], made, places.things[here[1]][0]) if stop else None
                    stack.append((reached, step))
    return found


def _unwind(trace: Any) -> list[str]:
    names = []
    while trace is not None:
        trace, actor, rules, step = trace
        steps = {"run": rules.backup, "prune": rules.prune}.get(actor.kind, (actor.kind,))
        names.append(f"{actor.name}: {steps[step]}")
    return names[::-1]


def _machine(actor: Actor, rules: Rules) -> Callable[[World, int, Local], Iterator[Move]]:
    if actor.kind == "forget":
        return lambda world, step, local: iter([_forget_by_hand(actor, rules, world, step)])
    if actor.kind == "garbler":
        return lambda world, step, local: ((after, END, ()) for after in _garbled(world))
    kind = _Run if actor.kind == "run" else _Prune
    steps = rules.backup if actor.kind == "run" else rules.prune

    def move(world: World, step: int, local: Local) -> Iterator[Move]:
        """Take a step, and with it those that follow and do nothing: neither reads nor writes, so nobody can tell."""
        taken = getattr(kind(actor, rules, world, dict(local)), steps[step])()
        for after, outcome, kept in _with_drops(actor, world, list(taken), rules) if rules.drops else taken:
            then = step + (outcome == "next")
            while then < len(steps) and _does_nothing(steps[then], kept):
                then += 1
            if outcome == "close":
                after, then = _leave(after, actor), END
            elif then == len(steps):
                then = END
            yield after, then, () if then == END else tuple(sorted(kept.items()))

    return move


_DO_NOTHING_WITHOUT = {
    "settle_sessions": "wait",
    "store_packs": "work",
    "store_index": "new",
    "replace_index": "stale",
    "delete_packs": "going",
    "delete_keys": "wraps",
}
"""Steps that have nothing to do without this in what their actor knows. A run lists packs all the same."""


def _does_nothing(step: str, known: dict[str, Any]) -> bool:
    if step == "forget":
        return not known["forget"] and not known["snapshots"]
    return step == "wait_grace" or (step in _DO_NOTHING_WITHOUT and not known.get(_DO_NOTHING_WITHOUT[step]))


def _forget_by_hand(actor: Actor, rules: Rules, world: World, step: int) -> Move:
    if step == 0 and rules.notes_first:
        return world._replace(notes=world.notes | actor.forgets), 1, ()
    return _without_records(world, actor.forgets), END, ()


_STORED = ("packs", "index", "marks", "sessions", "records", "keys", "notes")


def _with_drops(actor: Actor, world: World, taken: list[Outcome], rules: Rules) -> Iterator[Outcome]:
    """Each outcome of a step as it is; and, where it stores something, as it is if that is dropped."""
    yield from taken
    if world.dropped:
        return
    for after, outcome, kept in taken:
        lost = [name for name in _STORED if not getattr(after, name) <= getattr(world, name)]
        if lost:
            without = {name: getattr(world, name) for name in lost}
            if all(name == "packs" or f"{actor.kind} {name}" in rules.unseen for name in lost):
                yield after._replace(dropped=True, **without), outcome, kept
            else:
                yield world._replace(dropped=True), "close", kept


def _leave(world: World, actor: Actor) -> World:
    """An actor that gives up removes its mark, then its session; whoever comes in between sees one more of both."""
    marks = frozenset(mark for mark in world.marks if mark[0] != actor.name)
    return world._replace(marks=marks, sessions=world.sessions - {actor.name})


def _garbled(world: World) -> Iterator[World]:
    for name in {"x", *(name for name, _ in world.marks)}:
        others = frozenset(mark for mark in world.marks if mark[0] != name)
        yield world._replace(marks=others | {(name, GARBAGE)})


def _readable(world: World) -> bool:
    return all(ids != GARBAGE for _, ids in world.marks)


def _without_records(world: World, runs: frozenset[str]) -> World:
    return world._replace(records=frozenset(record for record in world.records if record[0] not in runs))


class _Base:
    def __init__(self, actor: Actor, rules: Rules, world: World, local: dict[str, Any]) -> None:
        self.me, self.rules, self.world, self.local = actor, rules, world, local

    def to(self, outcome: str = "next", drop: Sequence[str] = (), **local: Any) -> Outcome:
        kept = {**self.local, **local}
        for name in drop:
            kept.pop(name, None)
        return self.world, outcome, kept

    def change(self, **fields: Any) -> None:
        self.world = self.world._replace(**fields)

    def new_pack(self, contents: Contents) -> Pack:
        return contents, self.me.name if self.rules.salts else ""

    def open_session(self) -> Iterator[Outcome]:
        self.change(sessions=self.world.sessions | {self.me.name})
        yield self.to()

    def close_session(self) -> Iterator[Outcome]:
        self.change(sessions=self.world.sessions - {self.me.name})
        yield self.to()

    def store_index(self) -> Iterator[Outcome]:
        self.change(index=self.world.index | {(f"{self.me.name}+", frozenset({self.local["new"]}))})
        yield self.to()


class _Run(_Base):
    def read_marks(self) -> Iterator[Outcome]:
        if not _readable(self.world) and self.rules.wary_of_garbage:
            # A copy stops: it could not tell whether the key that it brings along is about to go.
            yield self.to("close") if self.rules.same_key else self.to(condemned=GARBAGE)
            return
        seen = self.world.marks if self.rules.writers_see_marks else ()
        yield self.to(condemned=frozenset().union(*(ids for _, ids in seen if ids != GARBAGE)))

    def read_index(self) -> Iterator[Outcome]:
        """Lists keys, packs and the index, in this order."""
        condemned = self.local.get("condemned", frozenset())
        if condemned == GARBAGE:
            yield self.to(drop=["condemned"], used=frozenset(), work=frozenset(self.me.wants))
            return
        if "keys" not in self.local:
            self.local["keys"] = self.world.keys - condemned if self.rules.writers_see_keys else None
            if self.rules.fine:
                yield self.to("again")
                return
        if "stored" not in self.local:
            self.local["stored"] = self.world.packs
            if self.rules.fine:
                yield self.to("again")
                return
        known, keys = (self.world.listed() & self.local["stored"]) - condemned, self.local["keys"]
        used, store = set(), set()
        for chunk in self.me.wants:
            homes = [pack for pack in known for each, key in pack[0] if each == chunk and (keys is None or key in keys)]
            if homes and not self.me.copies:
                used.add(min(homes, key=str))
            else:
                store.add(chunk)
        yield self.to(drop=["stored", "keys", "condemned"], used=frozenset(used), work=frozenset(store))

    def store_packs(self) -> Iterator[Outcome]:
        key = f"k{self.me.name}" if self.rules.salts and not self.rules.same_key else "k"
        if key not in self.world.keys and "key" not in self.local:
            self.change(keys=self.world.keys | {key})
            yield self.to("again", key=True)
            return
        new = self.new_pack(frozenset((chunk, key) for chunk in self.local["work"]))
        self.change(packs=self.world.packs | {new})
        yield self.to(drop=["work", "key"], new=new, used=self.local["used"] | {new})

    def list_packs(self) -> Iterator[Outcome]:
        yield self.to("next" if self.local["used"] <= self.world.packs else "close", drop=["used", "new"])

    def create_record(self) -> Iterator[Outcome]:
        taken = self.world.record(self.me.name) is not None
        if taken and not self.rules.blind_commit:
            yield self.to("close")
            return
        world = _without_records(self.world, frozenset({self.me.name}))
        self.world = world._replace(
            records=world.records | {(self.me.name, frozenset(self.me.wants))},
            acknowledged=world.acknowledged | {self.me.name},
        )
        yield self.to(drop=["used", "new"])


class _Prune(_Base):
    """The plan is read in one step: it is only a guess, which the second reading corrects."""

    def plan_prune(self) -> Iterator[Outcome]:
        world = self.world
        if not _readable(world):
            yield self.to("close")
            return
        kept = _without_records(world, self.me.forgets)
        others = frozenset().union(*(ids for _, ids in world.marks))
        others |= {pack for pack in world.packs if any(key in others or key not in world.keys for _, key in pack[0])}
        homes = self._homes(world.listed() & world.packs, frozenset(), others)
        if not kept.needed() <= homes.keys():
            yield self.to("close")
            return
        used = {homes[chunk] for chunk in kept.needed()}
        needed = kept.needed()
        moving = {pack for pack in used if any(chunk not in needed or homes[chunk] != pack for chunk, _ in pack[0])}
        condemned = (world.packs - used) | moving
        in_use = {key for pack in used for _, key in pack[0]}
        snapshots = frozenset(run for run, value in world.records if value != FENCED)
        yield self.to(
            plan=frozenset(condemned),
            moving=frozenset(moving),
            wraps=frozenset() if self.rules.keep_keys else world.keys - in_use,
            snapshots=snapshots - self.me.forgets,
            forget=snapshots & self.me.forgets,
            adopted=frozenset(prune for prune, _ in world.marks),
        )

    def _homes(self, packs: frozenset[Pack], going: frozenset[Pack], doubtful: frozenset[Any]) -> dict[str, Pack]:
        homes: dict[str, Pack] = {}
        for each in sorted(packs, key=lambda pack: (pack in doubtful, pack in going, str(pack))):
            for chunk, _ in each[0]:
                homes.setdefault(chunk, each)
        return homes

    def store_mark(self) -> Iterator[Outcome]:
        ids = self.local["plan"] | self.local["wraps"]
        self.change(marks=self.world.marks | {(self.me.name, ids)})
        yield self.to()

    def list_sessions(self) -> Iterator[Outcome]:
        others = self.world.sessions - {self.me.name}
        if not self.rules.wait_for_prunes:
            others = frozenset(name for name in others if not name.startswith("g"))
        yield self.to(wait=others)

    def settle_sessions(self) -> Iterator[Outcome]:
        waiting = self.local["wait"] & self.world.sessions
        if not waiting:
            yield self.to(drop=["wait"])
            return
        for other in waiting:
            if self.rules.give_way and other.startswith("g") and other < self.me.name:
                yield self.to("close")
            world = self.world
            if world.record(other) is None:
                world = world._replace(records=world.records | {(other, FENCED)})
            world = world._replace(sessions=world.sessions - {other})
            yield world, "again", {**self.local, "wait": waiting - {other}}

    def forget(self) -> Iterator[Outcome]:
        if not self.local["snapshots"] <= {run for run, value in self.world.records if value != FENCED}:
            yield self.to("close")
            return
        if self.rules.notes_first and self.local["forget"] and "noted" not in self.local:
            self.change(notes=self.world.notes | self.local["forget"])
            yield self.to("again", noted=True)
            return
        self.world = _without_records(self.world, self.local["forget"])
        yield self.to(drop=["forget", "noted"])

    def wait_grace(self) -> Iterator[Outcome]:
        yield self.to()

    def read_marks(self) -> Iterator[Outcome]:
        if not _readable(self.world):
            yield self.to("close")
            return
        others: frozenset[Any] = frozenset().union(*(ids for who, ids in self.world.marks if who != self.me.name))
        if not self.rules.settled_marks_only:
            self.local["adopted"] = frozenset(who for who, _ in self.world.marks if who != self.me.name)
        yield self.to(doubtful=others if self.rules.respect_other_marks else frozenset())

    def read_snapshots(self) -> Iterator[Outcome]:
        snapshots = {run for run, value in self.world.records if value != FENCED}
        if not self.local["snapshots"] <= snapshots:
            yield self.to("close")
            return
        yield self.to(drop=["snapshots"], needed=self.world.needed())

    def read_index(self) -> Iterator[Outcome]:
        if "keys" not in self.local:
            self.local["keys"] = self.world.keys
            if self.rules.fine:
                yield self.to("again")
                return
        if "objects" not in self.local:
            self.local["objects"] = self.world.index
            if self.rules.fine:
                yield self.to("again")
                return
        there, plan, needed = self.world.packs, self.local["plan"], self.local["needed"]
        listed = frozenset().union(*(packs for _, packs in self.local["objects"])) & there
        doubtful = self.local.get("doubtful", frozenset())
        doubtful |= {
            pack for pack in listed if any(key in doubtful or key not in self.local["keys"] for _, key in pack[0])
        }
        homes = self._homes(listed, plan, doubtful)
        if not needed <= homes.keys():
            yield self.to("again", drop=["objects"])  # chunks have moved while we read
            return
        used = {homes[chunk] for chunk in needed}
        move = frozenset(
            (chunk, key)
            for pack in used & self.local["moving"]
            for chunk, key in pack[0]
            if chunk in needed and homes[chunk] == pack
        )
        spared = (used - self.local["moving"]) if self.rules.spare_needed else frozenset()
        going = (plan & there) - spared
        in_use = {key for pack in listed - going for _, key in pack[0]} | {key for _, key in move}
        wraps = self.local["wraps"] if self.rules.old_keys_only else self.world.keys
        stale = frozenset(each for each in self.local["objects"] if each[1] & going or not each[1] <= there)
        yield self.to(
            drop=["keys", "objects", "doubtful", "needed", "moving", "plan"],
            work=move,
            going=going,
            wraps=wraps - in_use,
            stale=stale,
            stay=frozenset().union(*(packs for _, packs in stale)) & there - going,
        )

    def store_packs(self) -> Iterator[Outcome]:
        new = self.new_pack(self.local["work"])
        self.change(packs=self.world.packs | {new})
        yield self.to(drop=["work"], new=new)

    def list_packs(self) -> Iterator[Outcome]:
        new = self.local.get("new")
        yield self.to("next" if new is None or new in self.world.packs else "close", drop=["new"])

    def create_record(self) -> Iterator[Outcome]:
        if self.world.record(self.me.name) is not None:
            yield self.to("close")
            return
        self.change(records=self.world.records | {(self.me.name, FENCED)})
        yield self.to()

    def replace_index(self) -> Iterator[Outcome]:
        stay, stale = self.local.get("stay"), self.local["stale"]
        if stay and self.rules.put_before_delete:
            self.change(index=self.world.index | {(f"{self.me.name}*", stay)})
            yield self.to("again", drop=["stay"])
        elif stale:
            for each in stale:
                world = self.world._replace(index=self.world.index - {each})
                yield world, "again", {**self.local, "stale": stale - {each}}
        elif stay:
            self.change(index=self.world.index | {(f"{self.me.name}*", stay)})
            yield self.to("again", drop=["stay"])
        else:
            yield self.to(drop=["stale", "stay"])

    def delete_packs(self) -> Iterator[Outcome]:
        going = self.local["going"] & self.world.packs
        if not going:
            yield self.to(drop=["going"])
            return
        for each in going:
            yield self.world._replace(packs=self.world.packs - {each}), "again", {**self.local, "going": going - {each}}

    def delete_keys(self) -> Iterator[Outcome]:
        self.change(keys=self.world.keys - self.local["wraps"])
        yield self.to(drop=["wraps"])

    def delete_marks(self) -> Iterator[Outcome]:
        gone = self.local["adopted"] | {self.me.name}
        self.change(marks=frozenset(mark for mark in self.world.marks if mark[0] not in gone))
        yield self.to(drop=["adopted"])

    def delete_record(self) -> Iterator[Outcome]:
        self.world = _without_records(self.world, frozenset({self.me.name}))
        yield self.to()


def without(steps: Sequence[str], *names: str) -> tuple[str, ...]:
    assert set(names) <= set(steps)
    return tuple(step for step in steps if step not in names)


def moved(steps: Sequence[str], name: str, *, before: str) -> tuple[str, ...]:
    rest = without(steps, name)
    at = rest.index(before)
    return (*rest[:at], name, *rest[at:])
