"""`drkit backup`: one run of one policy, one snapshot; then what the mirror lacks.

This module loads little, so that the first helper container starts early; `backup_run` has the loop and the commit.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drkit.errors import CaptureFailed, DrkitError, EngineUnavailable, PartialFailure, about
from drkit.events import Warned
from drkit.operations.apart import require_apart
from drkit.operations.context import Context
from drkit.repository.format.kinds import Kind, Status
from drkit.repository.format.names import new_run_id
from drkit.targets import choose, plan_targets
from drkit.targets.base import Planned, made_ready
from drkit.targets.volume import own_volume

if TYPE_CHECKING:
    from drkit.operations.copy import MirrorResult
    from drkit.repository.format.snapshot import Snapshot, Target


_HINTS = 3
"""So many different things to do are named after a run; `--json` has those of all targets."""


@dataclass
class BackupResult:
    """How a run ended. `snapshot` is its record, stored unless its status is `failed`.

    `failures` are the errors of the targets that failed, by title. `mirror` is None where the policy has none, or
    nothing was stored.
    """

    snapshot: Snapshot
    failures: dict[str, DrkitError] = field(default_factory=dict)
    mirror: MirrorResult | None = None
    locks_renewed: int = 0
    losses: list[DrkitError] = field(default_factory=list)
    """What was lost since the run before, although the captures are good."""
    warnings: list[Warned] = field(default_factory=list)

    @property
    def errors(self) -> list[DrkitError]:
        """What is wrong with the targets, what they lost, then what is wrong with the mirror. Empty if nothing is."""
        of_mirror = self.mirror.error_of(self.snapshot) if self.mirror else None
        errors = [_error_of_targets(self.snapshot, self.failures), *self.losses, of_mirror]
        return [error for error in errors if error is not None]

    @property
    def error(self) -> DrkitError | None:
        """The error that decides the exit code."""
        return next(iter(self.errors), None)

    def hint_for(self, target: Target) -> str | None:
        """What to do about a target that failed."""
        failure = self.failures.get(target.title)
        return failure.hint if failure is not None else None


def plan_backup(context: Context, names: Sequence[str] = ()) -> list[Planned]:
    """Return the policy's targets with these names, or all without names.

    A volume of drkit's own that only a pattern matches is not a target, and a note says so. Raises UsageError for an
    unknown name, and what `require_apart` raises.
    """
    context.connect_ahead()
    planned = choose(without_own(context, plan_targets(context.required_policy, context.engine)), names)
    require_apart(context, planned)
    for said in context.engine.unlisted:
        context.events.warn(
            f"the engine may not have listed all volumes: {said}",
            hint="Start that plugin, then run drkit backup again; docker plugin ls and docker info show what there is.",
        )
    return planned


def without_own(context: Context, planned: Sequence[Planned]) -> list[Planned]:
    """Leave out the volumes of drkit's own that only a pattern matches, with a note for each.

    A pattern that matches nothing else is a target that fails, as one that matches nothing at all.
    """
    own = {target.name: why for target in planned if (why := _why_own(context, target))}
    for name, why in own.items():
        context.events.note(f"volume {name} is not backed up: {why}. Name it in the policy to back it up")
    kept = [target for target in planned if target.kind != Kind.VOLUME or target.name not in own]
    there = {target.name for target in kept if target.kind == Kind.VOLUME}
    for pattern in [entry.match for entry in context.required_policy.protect.volumes if entry.match]:
        left_out = fnmatch.filter(own, pattern)
        if left_out and pattern not in there and not fnmatch.filter(there, pattern):
            kept.append(
                Planned(
                    Kind.VOLUME,
                    pattern,
                    problem=f"no volume matches but drkit's own: {', '.join(left_out)}",
                    hint="If such a copy is what is to be backed up from now on, name it in the policy.",
                )
            )
            there.add(pattern)
    return kept


def _why_own(context: Context, target: Planned) -> str | None:
    named = {entry.name for entry in context.required_policy.protect.volumes}
    if target.kind != Kind.VOLUME or target.problem or target.name in named:
        return None
    return own_volume(context.engine, context.state, target.name)


def backup(context: Context, names: Sequence[str] = (), *, accept_repository: str | None = None) -> BackupResult:
    """Capture the policy's targets into one new snapshot, then copy to the mirror what it lacks.

    A target that fails is in the snapshot as `failed`, with its error, one that is not what it should be as `partial`;
    both make the snapshot `partial`. If all fail, nothing is stored. Errors of the mirror are in the result. Errors of
    the repository are raised, and then no snapshot exists. A repository other than the one this host remembers is an
    IntegrityError, before anything is sent to it, unless `accept_repository` is its id.
    """
    planned = plan_backup(context, names)
    run_id = new_run_id(context.now, os.urandom(4))
    with made_ready(context.required_policy, context.engine, context.state, planned, run_id=run_id) as ready:
        # Deferred: half of what a backup loads (0.2 s), while the first helper starts.
        from drkit.operations.backup_run import run

        ran = run(context, ready, accept_repository=accept_repository, chosen=bool(names))
    snapshot = ran.snapshot
    result = BackupResult(snapshot, ran.failures, locks_renewed=ran.locks_renewed, losses=ran.losses)
    if context.required_policy.mirror is not None and snapshot.status != Status.FAILED:
        # Deferred: 0.06 s, which a backup without a mirror saves.
        from drkit.operations.copy import copy_to_mirror

        context.events.note(f"snapshot {snapshot.id} is stored: copying to the mirror what it lacks")
        result.mirror = copy_to_mirror(context)
    result.warnings = context.warnings
    return result


def _error_of_targets(record: Snapshot, failures: Mapping[str, DrkitError]) -> DrkitError | None:
    """Name each target that failed once, and keep what each error said is to be done."""
    failed = [target for target in record.targets if target.status == Status.FAILED]
    partial = [target for target in record.targets if target.status == Status.PARTIAL]
    if not failed and not partial:
        return None
    named = "; ".join(about(target.title, str(target.error)) for target in [*failed, *partial])
    hints = list(dict.fromkeys(failure.hint for failure in failures.values() if failure.hint))[:_HINTS]
    if record.status == Status.FAILED:
        away = all(isinstance(failure, EngineUnavailable) for failure in failures.values())
        return (EngineUnavailable if away and failures else CaptureFailed)(
            f"no target could be captured, no snapshot was made: {named}",
            hint=" ".join([*hints, "Run drkit backup again."]),
        )
    many = len(record.targets)
    what = ", ".join(
        f"{len(targets)} of {many} targets {verb}"
        for targets, verb in ((failed, "failed"), (partial, "came in part only"))
        if targets
    )
    passed_over = " A restore of latest passes over what came in part only." if partial else ""
    safe = f"The others are safe in snapshot {record.id}.{passed_over}"
    return PartialFailure(f"{what}: {named}", hint=" ".join([*hints, safe]))
