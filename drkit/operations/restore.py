"""`drkit restore`: a volume, some of its paths, or an image, back from a snapshot.

Plan, create, write, verify. It reports success only after the restored data was captured again and compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from drkit.catalog.find import Scope, find_target
from drkit.errors import DrkitError, PartialFailure
from drkit.events import Warned
from drkit.operations.context import Context
from drkit.policy.references import parse_reference
from drkit.repository.format.kinds import Kind
from drkit.targets import KINDS
from drkit.targets.base import Restored, RestoreOptions, RestorePlan, Restoring


@dataclass(frozen=True)
class RestoreResult:
    """What was planned, and what was done: `restored` is None for a dry run."""

    plan: RestorePlan
    restored: Restored | None = None
    warnings: list[Warned] = field(default_factory=list)

    @property
    def error(self) -> DrkitError | None:
        """What of the target is not as it was, although its content is."""
        if self.restored is None:
            return None
        if self.restored.lost:
            return PartialFailure(
                f"{self.plan.target.kind} {self.restored.name}: restored without {'; '.join(self.restored.lost)}",
                hint="Restore again on a host where drkit helper build works.",
            )
        if not self.restored.unresolved:
            return None
        target, missing = self.plan.target, self.restored.unresolved
        pulled = next((name for name in missing if not parse_reference(name).is_id), None)
        or_pull = f", or pull it where its registry answers: docker pull {pulled}" if pulled else ""
        return PartialFailure(
            f"{target.title} is restored and verified, but this engine cannot give it the name {', '.join(missing)}",
            hint=f"Run it as {self.restored.known_as}{or_pull}.",
        )


def restore(
    context: Context,
    reference: str,
    kind: Kind,
    name: str,
    scope: Scope,
    options: RestoreOptions,
    *,
    dry_run: bool = False,
) -> RestoreResult:
    """Restore one target of a snapshot, named by id, a part of it, or `latest`. Never overwrites anything."""
    snapshot, target = find_target(context.repository, reference, kind, name, scope, events=context.events)
    context.warn_of_newer()
    context.warn_of_damaged_records()
    restoring = Restoring(lambda: context.engine, context.repository, context.state, context.events)
    plan = KINDS[kind].plan_restore(restoring, snapshot, target, options)
    for note in plan.notes:
        context.events.note(note)
    if dry_run:
        return RestoreResult(plan, warnings=context.warnings)
    restored = KINDS[kind].restore(restoring, plan)
    context.warn_of_damage()
    return RestoreResult(plan, restored, context.warnings)
