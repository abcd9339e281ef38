"""Which snapshot is meant: by id, by a part of it, or `latest` of a target."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from drkit.errors import DrkitError, IntegrityError, UsageError
from drkit.repository.format.kinds import Kind, Status
from drkit.repository.format.snapshot import Snapshot, Target, parse_time, stored_trees
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
    snapshots, damaged = readable_snapshots(repository)
    if reference == LATEST:
        candidates = [snapshot for snapshot in snapshots if scope.admits(snapshot)]
        return _only_origin(candidates, "a snapshot", damaged)[-1]
    return by_id(snapshots, reference, damaged)


def find_target(
    repository: Repository, reference: str, kind: str, name: str, scope: Scope = ANY
) -> tuple[Snapshot, Target]:
    """Return a snapshot and a target in it that can be restored.

    `latest` is the newest snapshot that holds the target as `ok`; one named by id may also hold it as `partial`.
    """
    snapshots, damaged = readable_snapshots(repository)
    if reference != LATEST:
        snapshot = by_id(snapshots, reference, damaged)
        return snapshot, _restorable(snapshot, kind, name)
    holding = [
        snapshot
        for snapshot in snapshots
        if scope.admits(snapshot) and (target := snapshot.target(kind, name)) is not None and target.status == Status.OK
    ]
    snapshot = _only_origin(holding, f"a snapshot that holds {kind} {name} as ok", damaged)[-1]
    return snapshot, _restorable(snapshot, kind, name)


def find_tree(
    repository: Repository, reference: str, kind: str, name: str, scope: Scope = ANY
) -> tuple[Snapshot, Target]:
    """Return a snapshot and one of its trees: that of a target of any kind, or what else holds one.

    So what a newer drkit stored can be listed and exported by one that does not know it.
    """
    snapshots, damaged = readable_snapshots(repository)
    if reference != LATEST:
        snapshot = by_id(snapshots, reference, damaged)
    else:
        holding = [each for each in snapshots if scope.admits(each) and _holds(each, kind, name)]
        snapshot = _only_origin(holding, f"a snapshot that holds {kind} {name} as ok", damaged)[-1]
    tree = _tree(snapshot, kind, name)
    if tree is None:
        target = _restorable(snapshot, kind, name)
        raise DrkitError(
            f"{target.title} has no files of its own in snapshot {snapshot.id}{by_newer(target)}",
            hint=f"What holds files: {', '.join(names_of_trees(snapshot))}.",
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


def previous_target(snapshots: Iterable[Snapshot], host: str, policy: str, kind: str, name: str) -> Target | None:
    """Return the target of the newest run of the same policy on the same host that captured it whole."""
    for snapshot in reversed(list(snapshots)):
        if (snapshot.host, snapshot.policy) == (host, policy):
            target = snapshot.target(kind, name)
            if target is not None and target.status == Status.OK:
                return target
    return None


def by_id(snapshots: list[Snapshot], reference: str, damaged: list[IntegrityError]) -> Snapshot:
    """Return the snapshot with this id, or the only one of whose id it is a part.

    A copy is also found by the ids of its originals. Several copies of one snapshot are equally good.
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
    return found[-1]


def _only_origin(snapshots: list[Snapshot], what: str, damaged: list[IntegrityError]) -> list[Snapshot]:
    """Return the snapshots if one host and policy made them all. Raises UsageError if several did."""
    if not snapshots:
        raise _nothing(what, damaged)
    origins = sorted({(snapshot.host, snapshot.policy) for snapshot in snapshots})
    if len(origins) > 1:
        listed = "; ".join(f"host {host}, policy {policy}" for host, policy in origins)
        raise UsageError(f"latest is ambiguous: {what} comes from {listed}", hint="Add --host or --from-policy.")
    return snapshots


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
