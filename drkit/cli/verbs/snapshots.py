"""`drkit snapshots`."""

from __future__ import annotations

from drkit.catalog.find import Scope, by_newer
from drkit.cli import output
from drkit.cli.options import FromPolicy, Host, verb
from drkit.cli.run import Run
from drkit.operations.snapshots import SnapshotsResult
from drkit.operations.snapshots import snapshots as list_snapshots
from drkit.repository.format.kinds import Status
from drkit.repository.format.snapshot import Target

_OF_A_SNAPSHOT = ("id", "time", "host", "policy", "status")
_OF_A_TARGET = ("kind", "name", "status", "bytes", "files", "lost", "flags", "error")


@verb(as_of=True)
def snapshots(run: Run, host: Host = None, from_policy: FromPolicy = None) -> None:
    """List the snapshots of every host and policy, oldest first."""
    result = list_snapshots(run.context, Scope(host, from_policy))
    if run.json:
        listing = [
            {
                **{key: getattr(snapshot, key) for key in _OF_A_SNAPSHOT},
                "copy_of": snapshot.copy_of or None,
                "targets": [{key: getattr(target, key) for key in _OF_A_TARGET} for target in snapshot.targets],
            }
            for snapshot in result.snapshots
        ]
        output.print_json({"snapshots": listing, "damaged": [error.object_name for error in result.damaged]})
    else:
        _print(result)
    run.end(*result.damaged)


def _print(result: SnapshotsResult) -> None:
    copies = any(snapshot.copy_of for snapshot in result.snapshots)
    rows = [
        (
            snapshot.id,
            *((snapshot.copy_of,) if copies else ()),
            snapshot.time[:19] + "Z",
            snapshot.host[:12],
            snapshot.policy,
            snapshot.status,
            ", ".join(target.title + _remark(target) for target in snapshot.targets),
        )
        for snapshot in result.snapshots
    ]
    output.print_table(("ID", *(("COPY OF",) if copies else ()), "TIME", "HOST", "POLICY", "STATUS", "TARGETS"), rows)


def _remark(target: Target) -> str:
    newer = by_newer(target).removeprefix(", ")
    words = [*([str(target.status)] if target.status != Status.OK else []), *target.flags]
    words += [newer] if newer else []
    words += ["reduced fidelity"] if target.reduced and not words else []
    return f" ({', '.join(words)})" if words else ""
