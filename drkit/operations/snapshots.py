"""`drkit snapshots`: what is in the repository."""

from __future__ import annotations

from dataclasses import dataclass

from drkit.catalog.find import Scope, readable_snapshots
from drkit.catalog.shrunk import standing
from drkit.errors import IntegrityError
from drkit.operations.context import Context
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.lines import lines_of


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
    shown = [snapshot for snapshot in found if scope.admits(snapshot)]
    for line in lines_of(shown):
        for shrunk in standing(line.snapshots):
            newest = shrunk.newest.snapshot
            context.events.warn(
                f"{shrunk.title} of host {line.host}, policy {line.policy}, has lost most of what it held in snapshot "
                f"{shrunk.pins}; {newest.id} is the newest that has it",
                hint=f"{shrunk.pins} stays. If the loss is right, say so on that host: drkit accept {shrunk.name}.",
            )
    return SnapshotsResult(shown, damaged)
