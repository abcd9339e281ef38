"""`drkit backup`: one run of one policy, one snapshot; then what the mirror lacks.

This module loads little, so that the first helper container starts early; `backup_run` has the loop and the commit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drkit.errors import CaptureFailed, DrkitError, PartialFailure
from drkit.events import Warned
from drkit.operations.context import Context
from drkit.repository.format.kinds import Kind, Status
from drkit.repository.format.names import new_run_id
from drkit.targets import choose, plan_targets
from drkit.targets.base import Planned, made_ready
from drkit.targets.volume import own_volume

if TYPE_CHECKING:
    from drkit.operations.copy import MirrorResult
    from drkit.repository.format.snapshot import Snapshot


@dataclass
class BackupResult:
    """How a run ended. `snapshot` is its record, stored unless its status is `failed`.

    `mirror` is None where the policy has none, or nothing was stored.
    """

    snapshot: Snapshot
    mirror: MirrorResult | None = None
    locks_renewed: int = 0
    warnings: list[Warned] = field(default_factory=list)

    @property
    def errors(self) -> list[DrkitError]:
        """What is wrong with the targets, then with the mirror. Empty if nothing is."""
        errors = [_error_of_targets(self.snapshot), self.mirror.error_of(self.snapshot) if self.mirror else None]
        return [error for error in errors if error is not None]

    @property
    def error(self) -> DrkitError | None:
        """The error that decides the exit code."""
        return next(iter(self.errors), None)


def plan_backup(context: Context, names: Sequence[str] = ()) -> list[Planned]:
    """Return the policy's targets with these names, or all without names. Raises UsageError for an unknown name.

    A volume of drkit's own that only a pattern matches is not a target, and a note says so.
    """
    context.connect_ahead()
    planned = plan_targets(context.required_policy, context.engine)
    own = {target.name: why for target in planned if (why := _why_own(context, target))}
    for name, why in own.items():
        context.events.note(f"volume {name} is not backed up: {why}. Name it in the policy to back it up")
    return choose([target for target in planned if target.name not in own or target.kind != Kind.VOLUME], names)


def _why_own(context: Context, target: Planned) -> str | None:
    named = {entry.name for entry in context.required_policy.protect.volumes}
    if target.kind != Kind.VOLUME or target.problem or target.name in named:
        return None
    return own_volume(context.engine, context.state, target.name)


def backup(context: Context, names: Sequence[str] = (), *, accept_repository: str | None = None) -> BackupResult:
    """Capture the policy's targets into one new snapshot, then copy to the mirror what it lacks.

    A target that fails is in the snapshot as `failed`, with its error, and makes the snapshot `partial`; if all fail,
    nothing is stored. Errors of the mirror are in the result. Errors of the repository are raised, and then no
    snapshot exists. A repository other than the one this host remembers is an IntegrityError, before anything is
    sent to it, unless `accept_repository` is its id.
    """
    planned = plan_backup(context, names)
    run_id = new_run_id(context.now, os.urandom(4))
    with made_ready(context.required_policy, context.engine, context.state, planned, run_id=run_id) as ready:
        # Deferred: half of what a backup loads (0.2 s), while the first helper starts.
        from drkit.operations.backup_run import run

        snapshot, locks_renewed = run(context, ready, accept_repository=accept_repository)
    result = BackupResult(snapshot, locks_renewed=locks_renewed)
    if context.required_policy.mirror is not None and snapshot.status != Status.FAILED:
        # Deferred: 0.06 s, which a backup without a mirror saves.
        from drkit.operations.copy import copy_to_mirror

        context.events.note(f"snapshot {snapshot.id} is stored: copying to the mirror what it lacks")
        result.mirror = copy_to_mirror(context)
    result.warnings = context.warnings
    return result


def _error_of_targets(record: Snapshot) -> DrkitError | None:
    failed = [target for target in record.targets if target.status == Status.FAILED]
    if not failed:
        return None
    named = "; ".join(f"{target.title}: {target.error}" for target in failed)
    if record.status == Status.FAILED:
        return CaptureFailed(
            f"no target could be captured, no snapshot was made: {named}", hint="Run drkit backup again."
        )
    return PartialFailure(
        f"{len(failed)} of {len(record.targets)} targets failed: {named}",
        hint=f"The others are safe in snapshot {record.id}.",
    )
