"""`drkit copy`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from drkit.cli import output
from drkit.cli.options import verb
from drkit.cli.run import Run
from drkit.errors import counted
from drkit.operations.copy import CopyResult
from drkit.operations.copy import copy as copy_snapshots
from drkit.repository.format.kinds import Status


@verb()
def copy(
    run: Run,
    snapshot: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SNAPSHOT]...", help="Snapshot ids, or parts of them. Default: all."),
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="URL", help="The mirror, instead of the policy's.")] = None,
) -> None:
    """Copy the snapshots that the mirror lacks, newest first.

    No data is opened, so the meta key is enough. drkit init --mirror-of creates a mirror.
    """
    with run.watching() as context:
        done = copy_snapshots(context, snapshot or (), to=to)
    with run.reporting(f"{counted(len(done.copied), 'snapshot')} copied to {done.url}"):
        if run.json:
            output.print_json(document(done))
        elif run.talks:
            _print(done)
    run.end(done.error)


def document(done: CopyResult) -> dict[str, Any]:
    """What `--json` prints, also as part of a backup's document."""
    return {
        "status": Status.PARTIAL if done.failed else Status.OK,
        "url": done.url,
        "copied": [asdict(each) for each in done.copied],
        "skipped": done.skipped,
        "failed": [asdict(each) for each in done.failed],
        "bytes": done.bytes,
    }


def _print(done: CopyResult) -> None:
    rows = [(each.snapshot, each.copy, output.size_text(each.bytes)) for each in done.copied]
    if rows:
        output.print_table(("SNAPSHOT", "COPY", "SENT"), rows, right=frozenset({2}))
    output.print_line(
        f"copied {counted(len(done.copied), 'snapshot')} to {done.url}, {output.size_text(done.bytes)} sent; "
        f"already there: {len(done.skipped)}"
    )
