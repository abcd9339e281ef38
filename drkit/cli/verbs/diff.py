"""`drkit diff`."""

from __future__ import annotations

from typing import Annotated

import typer

from drkit.cli import output
from drkit.cli.options import verb
from drkit.cli.run import Run
from drkit.operations.diff import diff as compare


@verb(as_of=True)
def diff(
    run: Run,
    old: Annotated[str, typer.Argument(help="The earlier snapshot.")],
    new: Annotated[str, typer.Argument(help="The later snapshot.")],
) -> None:
    """Show what changed between two snapshots.

    + added, - removed, M content, U metadata only, T type.
    """
    result = compare(run.context, old, new)
    if run.json:
        rows = [{"target": each.target, "change": each.change, "path": each.path} for each in result.changes]
        output.print_json({"old": result.old.id, "new": result.new.id, "changes": rows})
        return
    for change in result.changes:
        output.print_line(f"{change.change} {change.target}: {change.path}")
