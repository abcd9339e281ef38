"""`drkit accept`: let a target that shrank, moved or is gone count as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from drkit.catalog.find import readable_snapshots
from drkit.catalog.shrunk import SHRUNK, captures_before, loss
from drkit.errors import DrkitError, UsageError
from drkit.events import Warned
from drkit.host.installation import Installation
from drkit.operations.context import Context
from drkit.operations.losses import GONE, key_of
from drkit.repository.format.kinds import Status
from drkit.repository.format.snapshot import Snapshot, Target
from drkit.repository.lines import lines_of


@dataclass(frozen=True)
class Accepted:
    """A target that counts as it is in `snapshot`. `was`: what it was there, in words."""

    kind: str
    name: str
    snapshot: str
    was: str


@dataclass(frozen=True)
class AcceptResult:
    """What the next backup of this installation starts from."""

    host: str
    policy: str
    targets: list[Accepted]
    warnings: list[Warned] = field(default_factory=list)


def accept(context: Context, names: Sequence[str]) -> AcceptResult:
    """Let these targets, named NAME or KIND:NAME, count as they are in the newest snapshot of this installation.

    Changes the state directory alone: the next backup is compared with what was accepted, and its record, signed by
    this installation, tells every prune that what was pinned may go. All are accepted, or none. Raises UsageError for a
    target about which there is nothing to accept.
    """
    host, policy = context.host, context.required_policy.name
    repository = context.repository
    snapshots, _ = readable_snapshots(repository)
    context.warn_of_newer()
    context.warn_of_damaged_records()
    installation = Installation(context.state)
    with installation.held(repository, host, policy):
        state = installation.series(repository, host, policy)
        lines = [line for line in lines_of(snapshots) if (line.host, line.policy) == (host, policy)]
        ours = next((line for line in lines if installation.origin in line.origins), None)
        if ours is None:
            raise UsageError(
                f"the repository holds no snapshot that this installation made of host {host}, policy {policy}",
                hint="A target is accepted on the host that backs it up; see drkit host show.",
            )
        accepted = [_accepted(ours.snapshots, name, state.accepted) for name in names]
        for each in accepted:
            state.accepted[key_of(each.kind, each.name)] = each.snapshot
        installation.save(repository, state)
    return AcceptResult(host, policy, accepted, context.warnings)


def _accepted(snapshots: Sequence[Snapshot], name: str, already: dict[str, str]) -> Accepted:
    newest, target = _newest(snapshots, name)
    key = key_of(target.kind, target.name)
    before = captures_before(
        [each for each in snapshots if each is not newest], target.kind, target.name, accepted=already.get(key, "")
    )
    if already.get(key) == newest.original:
        raise UsageError(
            f"{target.title} is accepted already as it is in snapshot {newest.id}", hint="Run drkit backup."
        )
    if GONE in target.flags:
        return Accepted(target.kind, target.name, newest.original, "gone")
    if SHRUNK in target.flags:
        return Accepted(target.kind, target.name, newest.original, f"shrunk, with what snapshot {target.pins} holds")
    if target.status == Status.PARTIAL:
        lost = loss(target, before, origin=newest.origin)
        if lost is not None and lost.moved:
            return Accepted(target.kind, target.name, newest.original, f"{lost}")
    said = f"{target.status}: {target.error}" if target.error else str(target.status)
    raise UsageError(
        f"there is nothing to accept: {target.title} is {said}, in snapshot {newest.id}",
        hint="What was lost, what moved and what is gone is accepted; anything else is mended. Run drkit backup.",
    )


def _newest(snapshots: Sequence[Snapshot], name: str) -> tuple[Snapshot, Target]:
    """Return the newest mention of the target of this name. Raises UsageError for none, DrkitError for several."""
    for snapshot in reversed(snapshots):
        found = [each for each in snapshot.targets if name in (each.name, key_of(each.kind, each.name))]
        if len(found) > 1:
            raise UsageError(f"snapshot {snapshot.id} holds several targets {name}", hint=f"Say volume:{name}.")
        if found:
            return snapshot, found[0]
    held = ", ".join(sorted({target.name for snapshot in snapshots for target in snapshot.targets})) or "nothing"
    raise DrkitError(f"no snapshot of this installation holds a target {name}", hint=f"There is: {held}.")
