"""`drkit snapshots`: what is in the repository."""

from __future__ import annotations

from dataclasses import dataclass

from drkit.catalog.find import Scope, readable_snapshots
from drkit.errors import IntegrityError
from drkit.operations.context import Context
from drkit.repository.format.snapshot import Snapshot


@dataclass(frozen=True)
class SnapshotsResult:
    """Oldest first. `damaged`: records that cannot be read, so that their host and policy are unknown."""

    snapshots: list[Snapshot]
    damaged: list[IntegrityError]

    @property
    def error(self) -> IntegrityError | None:
        """The error that decides the exit code."""
        return next(iter(self.damaged), None)


def snapshots(context: Context, scope: Scope) -> SnapshotsResult:
    """List the snapshots of the scope: by default those of every host and policy."""
    found, damaged = readable_snapshots(context.repository)
    context.warn_of_newer()
    return SnapshotsResult([snapshot for snapshot in found if scope.admits(snapshot)], damaged)
