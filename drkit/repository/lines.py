"""Lines: which snapshots follow each other, and which installations contend for one.

A *line* holds the snapshots of one host and policy that one installation made, or took over from another one. It is
ordered by the sequence numbers in signed records, whatever the clocks said. Records that nobody signed are a line of
their own, ordered by time: whoever holds the meta key can write them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from drkit.repository.format.snapshot import Snapshot


@dataclass(frozen=True, eq=False)
class Line:
    """`snapshots`: oldest first. `origins`: the one that goes on, then those it took over; none where nobody signed."""

    host: str
    policy: str
    origins: tuple[str, ...]
    snapshots: tuple[Snapshot, ...]

    @property
    def signed(self) -> bool:
        return bool(self.origins)

    @property
    def newest(self) -> Snapshot:
        return self.snapshots[-1]

    @property
    def title(self) -> str:
        """What messages call it."""
        made = f"origin {short(self.origins[0])}" if self.signed else "not signed"
        return f"host {self.host}, policy {self.policy}, {made}, newest {self.newest.time[:19]}Z"


@dataclass(frozen=True)
class Fork:
    """Two installations contend for one series, and nobody has said yet which is which. `why` names both."""

    host: str
    policy: str
    origins: tuple[str, ...]
    why: str
    marked: str = ""
    """The origin whose records say that it is a fork; empty where none does."""


def short(origin: str) -> str:
    """An origin as people compare it."""
    return origin[:8]


def lines_of(snapshots: Iterable[Snapshot]) -> list[Line]:
    """Sort snapshots into lines, by host, policy and origin; the one that nobody signed comes first."""
    lines = []
    for (host, policy), origins in sorted(_by_origin(snapshots).items()):
        unsigned = origins.pop("", [])
        if unsigned:
            lines.append(Line(host, policy, (), tuple(sorted(unsigned, key=lambda each: (each.time, each.id)))))
        adopters = _adopters(_heads(origins))
        members: dict[str, list[str]] = defaultdict(list)
        for origin in sorted(origins):
            ends = _ends(origin, adopters)
            # Whom several took over, or who took each other over, belongs to nobody: see `forks`.
            members[next(iter(ends)) if len(ends) == 1 else origin].append(origin)
        for root, joined in sorted(members.items()):
            joined.sort(key=lambda origin: origin != root)
            records = [record for origin in joined for record in origins[origin]]
            lines.append(Line(host, policy, tuple(joined), tuple(sorted(records, key=_place))))
    return lines


def counting(lines: Sequence[Line]) -> list[Line]:
    """Leave out the records that nobody signed where an installation signs for the same host and policy."""
    signed = {(line.host, line.policy) for line in lines if line.signed}
    return [line for line in lines if line.signed or (line.host, line.policy) not in signed]


def adopted_by(snapshots: Iterable[Snapshot], host: str, policy: str, origin: str) -> str:
    """Return another origin that has taken this one over; empty if none has."""
    heads = _heads(_by_origin(snapshots).get((host, policy), {}))
    return next(
        (other for other, head in sorted(heads.items()) if other not in ("", origin) and origin in head.adopted), ""
    )


def forks(snapshots: Iterable[Snapshot]) -> list[Fork]:
    """Return every fork that nobody has settled."""
    found = []
    for (host, policy), origins in sorted(_by_origin(snapshots).items()):
        origins.pop("", None)
        heads = _heads(origins)
        adopters = _adopters(heads)
        for origin, head in sorted(heads.items()):
            if head.fork and not adopters[origin]:
                other = heads.get(head.fork)
                seen = f"newest {other.time[:19]}Z" if other else "of which nothing is left"
                why = (
                    f"origin {short(origin)}, newest {head.time[:19]}Z, began as a copy of "
                    f"origin {short(head.fork)}, {seen}"
                )
                found.append(Fork(host, policy, (origin, head.fork), why, marked=origin))
            twins = sorted({each.original for each in origins[origin] if each.sequence == head.sequence})
            named = any(each.fork == origin for records in origins.values() for each in records)
            if len(twins) > 1 and not adopters[origin] and not named:
                why = f"origin {short(origin)} made both {twins[0]} and {twins[1]} as number {head.sequence}"
                found.append(Fork(host, policy, (origin,), why))
            ends = _ends(origin, adopters)
            if len(ends) != 1:
                claim = sorted(ends or adopters[origin])
                why = f"origin {short(origin)} was taken over by {' and '.join(map(short, claim))}"
                found.append(Fork(host, policy, (origin, *claim), why))
    return found


def _by_origin(snapshots: Iterable[Snapshot]) -> dict[tuple[str, str], dict[str, list[Snapshot]]]:
    """Sort snapshots by host and policy, and these by origin."""
    found: dict[tuple[str, str], dict[str, list[Snapshot]]] = defaultdict(lambda: defaultdict(list))
    for snapshot in snapshots:
        found[snapshot.host, snapshot.policy][snapshot.origin].append(snapshot)
    return found


def _place(snapshot: Snapshot) -> tuple[int, str, str]:
    return snapshot.sequence, snapshot.original, snapshot.id


def _heads(origins: Mapping[str, Sequence[Snapshot]]) -> dict[str, Snapshot]:
    return {origin: max(records, key=_place) for origin, records in origins.items()}


def _adopters(heads: Mapping[str, Snapshot]) -> dict[str, set[str]]:
    """By origin, those whose newest record takes it over."""
    adopters: dict[str, set[str]] = {origin: set() for origin in heads}
    for origin, head in heads.items():
        for other in head.adopted:
            if other in adopters and other != origin:
                adopters[other].add(origin)
    return adopters


def _ends(origin: str, adopters: Mapping[str, set[str]]) -> set[str]:
    """Return those that took this origin over, directly or not, and that nobody took over. Itself, if nobody has."""
    seen, waiting = {origin}, [origin]
    while waiting:
        for other in adopters[waiting.pop()] - seen:
            seen.add(other)
            waiting.append(other)
    return {each for each in seen if not adopters[each]}
