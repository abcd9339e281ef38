"""What can be protected, one module per kind: how it is planned, captured and restored."""

from __future__ import annotations

from collections.abc import Sequence

from drkit.engine.client import Engine
from drkit.errors import UsageError
from drkit.policy import Policy
from drkit.repository.format.kinds import Kind
from drkit.targets import image, volume
from drkit.targets.base import Planned, TargetKind

__all__ = ["KINDS", "choose", "plan_targets"]

KINDS: dict[Kind, TargetKind] = {Kind.VOLUME: volume, Kind.IMAGE: image}
"""In the order in which a run captures them."""


def plan_targets(policy: Policy, engine: Engine) -> list[Planned]:
    """Resolve what the policy protects."""
    return [planned for kind in KINDS.values() for planned in kind.plan(policy, engine)]


def choose(planned: Sequence[Planned], names: Sequence[str]) -> list[Planned]:
    """Return the targets of these names, all without names. Raises UsageError for a name that no target has."""
    unknown = [name for name in names if name not in {target.name for target in planned}]
    if unknown:
        known = ", ".join(target.name for target in planned)
        raise UsageError(f"the policy has no target {unknown[0]}", hint=f"Its targets are: {known}.")
    return [target for target in planned if not names or target.name in names]
