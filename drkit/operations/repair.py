"""`drkit repair`: rebuild what can be derived from other objects."""

from __future__ import annotations

from drkit.operations.context import Context
from drkit.repository import repair
from drkit.repository.repair import Repaired


def repair_index(context: Context) -> Repaired:
    """List every pack as its own directory does, and delete index objects that say something else."""
    repository = context.uncached_repository
    for _ in repository.snapshots():
        pass  # read for what they require
    repository.refuse_newer()
    return repair.repair_index(repository)
