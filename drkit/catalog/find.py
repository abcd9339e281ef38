"""Which snapshot is meant: by id, by a part of it, or `latest` of a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from drkit.catalog.shrunk import SHRUNK
from drkit.errors import DrkitError, IntegrityError, UsageError
from drkit.events import LOGGED, Events
from drkit.repository.format.kinds import Kind, Status
from drkit.repository.format.snapshot import Snapshot, Target, parse_time, stored_trees
from drkit.repository.lines import Line, counting, lines_of
from drkit.repository.repository import Repository

LATEST = "latest"


@dataclass(frozen=True)
class Scope:
    """Narrows which snapshots are meant. None matches every host and every policy: nothing is narrowed silently."""

    host: str | None = None
    policy: str | None = None
    at: datetime | None = None

    def admits(self, snapshot: Snapshot) -> bool:
        return (
            self.host in (None, snapshot.host)
            and self.policy in (None, snapshot.policy)
            and (self.at is None or parse_time(snapshot.time) <= self.at)
        )


ANY = Scope()


def readable_snapshots(repository: Repository) -> tuple[list[Snapshot], list[IntegrityError]]:
    """Return the snapshots, oldest first, and the damaged records beside them."""
    snapshots: list[Snapshot] = []
    damaged: list[IntegrityError] = []
    for record in repository.snapshots():
        if isinstance(record, Snapshot):
            snapshots.append(record)
        else:
            damaged.append(record)
    return sorted(snapshots, key=lambda snapshot: (snapshot.time, snapshot.id)), damaged


def find_snapshot(repository: Repository, reference: str, scope: Scope = ANY) -> Snapshot:
    """Return one snapshot by its id, an unambiguous part of it, or `latest`."""
    return find_snapshots(repository, [reference], scope)[0]


def find_snapshots(repository: Repository, references: Sequence[str], scope: Scope = ANY) -> list[Snapshot]:
    """As `find_snapshot`, several of them from one reading of the records."""
    snapshots, damaged = readable_snapshots(repository)
    return [
        _latest(snapshots, scope.admits, "a snapshot", damaged)
        if reference == LATEST
        else by_id(snapshots, reference, damaged)
        for reference in references
    ]


def find_target(
    repository: Repository, reference: str, kind: str, name: str, scope: Scope = ANY, *, events: Events = LOGGED
) -> tuple[Snapshot, Target]:
    """Return a snapshot and a target in it that can be restored.

    `latest` is the newest snapshot that holds the target as `ok`; one named by id may also hold it as `partial`.
    Warns where another one may be meant: a newer one that is partial, or the one before that held more.
    """
    snapshots, damaged = readable_snapshots(repository)
    if reference != LATEST:
        snapshot = by_id(snapshots, reference, damaged)
        target = _restorable(snapshot, kind, name)
        _warn_of_others(events, [], snapshot, target)
        return snapshot, target

    def holds(snapshot: Snapshot) -> bool:
        target = snapshot.target(kind, name)
        return scope.admits(snapshot) and target is not None and target.status == Status.OK

    snapshot = _latest(snapshots, holds, f"a snapshot with a complete {kind} {name}", damaged)
    target = _restorable(snapshot, kind, name)
    _warn_of_others(events, [each for each in snapshots if scope.admits(each)], snapshot, target)
    return snapshot, target


def _warn_of_others(events: Events, snapshots: Sequence[Snapshot], snapshot: Snapshot, target: Target) -> None:
    """`snapshots`: those among which `latest` was looked for."""
    line = next((each for each in lines_of(snapshots) if snapshot in each.snapshots), None)
    newer = line.snapshots[line.snapshots.index(snapshot) + 1 :] if line else ()
    for each in reversed(newer):
        there = each.target(target.kind, target.name)
        if there is not None and there.status == Status.PARTIAL:
            events.warn(
                f"snapshot {each.id} is newer than {snapshot.id}, but {target.title} is partial there: {there.error}",
                hint=f"If you want that one, name it: {each.id}.",
            )
            break
    if target.status == Status.PARTIAL:
        events.warn(f"{target.title} is partial in snapshot {snapshot.id}: {target.error}")
    if SHRUNK in target.flags:
        events.warn(
            f"{target.title} had lost most of what it held when snapshot {snapshot.id} was made",
            hint=f"What it held before is in snapshot {target.pins}.",
        )


def find_tree(
    repository: Repository, reference: str, kind: str, name: str, scope: Scope = ANY, *, events: Events = LOGGED
) -> tuple[Snapshot, Target]:
    """Return a snapshot and one of its trees: that of a target of any kind, or what else holds one.

    So what a newer drkit stored can be listed and exported by one that does not know it. Warns as `find_target` does.
    """
    snapshots, damaged = readable_snapshots(repository)
    if reference != LATEST:
        snapshot = by_id(snapshots, reference, damaged)
    else:
        what = f"a snapshot with a complete {kind} {name}"
        snapshot = _latest(snapshots, lambda each: scope.admits(each) and _holds(each, kind, name), what, damaged)
    tree = _tree(snapshot, kind, name)
    if tree is None:
        target = _restorable(snapshot, kind, name)
        raise DrkitError(
            f"{target.title} has no files of its own in snapshot {snapshot.id}{by_newer(target)}",
            hint=f"What holds files: {', '.join(names_of_trees(snapshot))}.",
        )
    _warn_of_others(
        events, [each for each in snapshots if scope.admits(each)] if reference == LATEST else [], snapshot, tree
    )
    return snapshot, tree


def _holds(snapshot: Snapshot, kind: str, name: str) -> bool:
    target = snapshot.target(kind, name)
    return target.status == Status.OK if target is not None else _tree(snapshot, kind, name) is not None


def _tree(snapshot: Snapshot, kind: str, name: str) -> Target | None:
    trees = (tree for tree in stored_trees(snapshot) if (tree.kind, tree.name) == (kind, name))
    return next((tree for tree in trees if tree.status != Status.FAILED), None)


def names_of_trees(snapshot: Snapshot) -> list[str]:
    """What `find_tree` finds in a snapshot beside its documents, as KIND:NAME."""
    return [f"{each.kind}:{each.name}" for each in [*snapshot.targets, *snapshot.unknown] if each.tree]


def by_newer(target: Target) -> str:
    """Say of a target, in words to follow its name, when this version does not know its kind."""
    return "" if target.kind in list(Kind) else ", made by a newer drkit"


def previous_target(before: Sequence[Snapshot], kind: str, name: str) -> Target | None:
    """Return the target of the newest of these snapshots, oldest first, that captured it whole."""
    for snapshot in reversed(before):
        target = snapshot.target(kind, name)
        if target is not None and target.status == Status.OK:
            return target
    return None


def by_id(snapshots: list[Snapshot], reference: str, damaged: list[IntegrityError]) -> Snapshot:
    """Return the snapshot with this id, or the only one of whose id it is a part.

    A copy is also found by the ids of its originals. Several copies of one snapshot are equally good, but one that
    nobody signed is no copy of one that somebody signed.
    """
    found = [snapshot for snapshot in snapshots if snapshot.id == reference]
    found = found or [snapshot for snapshot in snapshots if reference in snapshot.names]
    part = reference.lower()
    found = found or [snapshot for snapshot in snapshots if part and any(part in name for name in snapshot.names)]
    if len({snapshot.original for snapshot in found}) > 1:
        raise UsageError(
            f"{reference} is part of {len(found)} snapshot ids: {', '.join(snapshot.id for snapshot in found[:5])}",
            hint="Give more of the id.",
        )
    if not found:
        raise _nothing(f"snapshot {reference}", damaged)
    return max(found, key=lambda snapshot: bool(snapshot.origin))


def _latest(
    snapshots: list[Snapshot], admits: Callable[[Snapshot], bool], what: str, damaged: list[IntegrityError]
) -> Snapshot:
    """Return the newest snapshot of the only line with one that is admitted. Raises UsageError if several have one.

    Where an installation signs, records of the same host and policy that nobody signed do not count: whoever holds the
    meta key can write them.
    """
    lines = lines_of(snapshots)
    found = [snapshot for line in counting(lines) for snapshot in [_newest(line, admits)] if snapshot is not None]
    if len(found) > 1:
        listed = "; ".join(line.title for line in counting(lines) if _newest(line, admits) is not None)
        if len({(snapshot.host, snapshot.policy) for snapshot in found}) > 1:
            hint = "Give the id of a snapshot, or add --host or --from-policy."
        else:
            hint = "Give the id of a snapshot. If both machines go on, give one of them another host in its policy."
        raise UsageError(
            f"latest is ambiguous: {what} comes from {listed}",
            hint=f"{hint} If one host was rebuilt, let it take its old series over: drkit host adopt.",
        )
    if not found:
        unsigned = [snapshot for line in lines for snapshot in [_newest(line, admits)] if snapshot is not None]
        if unsigned:
            raise DrkitError(
                f"{what} was not found among those that an installation signed; {unsigned[-1].id} matches, but nobody "
                "signed it",
                hint=f"If you trust it, name it: {unsigned[-1].id}.",
            )
        raise _nothing(what, damaged)
    return found[0]


def _newest(line: Line, admits: Callable[[Snapshot], bool]) -> Snapshot | None:
    return next((snapshot for snapshot in reversed(line.snapshots) if admits(snapshot)), None)


def _restorable(snapshot: Snapshot, kind: str, name: str) -> Target:
    target = snapshot.target(kind, name)
    if target is None:
        held = ", ".join(target.title for target in snapshot.targets) or "nothing"
        raise DrkitError(f"snapshot {snapshot.id} holds no {kind} {name}", hint=f"It holds: {held}.")
    if target.status == Status.FAILED:
        raise DrkitError(
            f"{kind} {name} failed in snapshot {snapshot.id}: {target.error}", hint="Choose another: drkit snapshots."
        )
    return target


def _nothing(what: str, damaged: list[IntegrityError]) -> DrkitError:
    if damaged:
        return IntegrityError(
            f"{what} was not found, and {damaged[0].object_name} is damaged",
            hint="Run drkit check.",
            object_name=damaged[0].object_name,
        )
    return DrkitError(f"{what} was not found", hint="See what there is: drkit snapshots.")
