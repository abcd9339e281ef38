"""`drkit ls`."""

from __future__ import annotations

from typing import Annotated

import typer

from drkit.cli import output
from drkit.cli.options import At, FromPolicy, Host, SnapshotArgument, verb
from drkit.cli.run import Run
from drkit.cli.values import moment
from drkit.operations.ls import ls as list_files
from drkit.operations.scope import scope_of


@verb(as_of=True)
def ls(
    run: Run,
    snapshot: SnapshotArgument,
    target: Annotated[str | None, typer.Argument(help="Which target; needed when there are several.")] = None,
    path: Annotated[str | None, typer.Argument(help="Only this path and what is below it.")] = None,
    at: At = None,
    host: Host = None,
    from_policy: FromPolicy = None,
) -> None:
    """List the files of a snapshot."""
    scope = scope_of(run.context, host, from_policy, moment(at, "--at"))
    result = list_files(run.context, snapshot, target, path, scope)
    if run.json:
        output.print_json({"snapshot": result.snapshot.id, "entries": [entry._asdict() for entry in result.entries]})
        return
    for entry in result.entries:
        arrow = f" -> {entry.link}" if entry.link else ""
        owner = f"{entry.uid}:{entry.gid}"
        time = output.time_text(entry.mtime)
        output.print_line(f"{entry.type} {entry.mode:>4} {owner:>11} {entry.size:>12} {time} {entry.path}{arrow}")
