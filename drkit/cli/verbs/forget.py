"""`drkit forget`."""

from __future__ import annotations

from typing import Annotated

import typer

from drkit.cli import output
from drkit.cli.options import YesReally, verb
from drkit.cli.run import Run
from drkit.errors import counted
from drkit.operations.forget import forget as forget_snapshots


@verb()
def forget(
    run: Run,
    snapshot: Annotated[list[str], typer.Argument(metavar="SNAPSHOT...", help="Snapshot ids, or parts of them.")],
    yes_really: YesReally = False,
) -> None:
    """Remove snapshots by hand.

    What no other snapshot holds is lost. The next prune frees its space.
    """
    done = forget_snapshots(run.context, snapshot, yes_really=yes_really)
    with run.reporting(f"{counted(len(done.snapshots), 'snapshot')} forgotten"):
        if run.json:
            output.print_json(
                {
                    "status": "ok",
                    "forgotten": done.snapshots,
                    "explained": done.explained,
                    "snapshots_left": done.left,
                }
            )
        elif run.talks:
            for run_id in done.snapshots:
                output.print_line(f"forgot snapshot {run_id}")
            for run_id in done.explained:
                output.print_line(f"noted: what was missing of snapshot {run_id} is not looked for any more")
            output.print_line(f"left: {counted(done.left, 'snapshot')}; drkit prune frees the space")
