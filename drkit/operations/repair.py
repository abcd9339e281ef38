"""`drkit repair`: rebuild what can be derived from other objects. Never removes anything."""

from __future__ import annotations

from drkit.operations.context import Context
from drkit.repository import repair
from drkit.repository.repair import Repaired


def repair_index(context: Context) -> Repaired:
    """List every pack that no readable index object lists in a new one, from the pack's own directory."""
    repository = context.uncached_repository
    for _ in repository.snapshots():
        pass  # read for what they require
    repository.refuse_newer()
    return repair.repair_index(repository)
