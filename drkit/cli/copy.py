"""`drkit copy`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from drkit.cli import output
from drkit.cli.options import Json, LogFormat, Logging, PolicyFile, Quiet, RepositoryUrl, Verbose
from drkit.cli.progress import BarEvents, progress_bar
from drkit.cli.session import Session

if TYPE_CHECKING:
    from drkit.operations.copy import Copies


def copy(
    snapshot: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[SNAPSHOT]...", help="Snapshot ids, or parts of them. Default: all."),
    ] = None,
    to: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--to", metavar="URL", help="The mirror, instead of the policy's."),
    ] = None,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Copy the snapshots that the mirror lacks, unopened, the newest first. See init --mirror-of."""
    from drkit.operations.copy import copy as run

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        with progress_bar(shown=not (quiet or json)) as advance:
            done = run(
                session.repository,
                session.mirror(to),
                snapshot or (),
                host=session.host,
                events=BarEvents(advance),
            )
        if json:
            output.print_json(document(done))
        elif not quiet:
            _print(done)
        if done.error is not None:
            output.fail(done.error)
            raise typer.Exit(done.error.exit_code)


def document(done: Copies) -> dict[str, Any]:
    """What `--json` prints, also as part of a backup's document."""
    return {
        "status": "partial" if done.failed else "ok",
        "url": done.url,
        "copied": [asdict(each) for each in done.copied],
        "skipped": done.skipped,
        "failed": [asdict(each) for each in done.failed],
        "bytes": done.bytes,
    }


def _print(done: Copies) -> None:
    rows = [(each.snapshot, each.copy, output.size_text(each.bytes)) for each in done.copied]
    if rows:
        output.print_table(("SNAPSHOT", "COPY", "SENT"), rows, right=frozenset({2}))
    output.print_line(
        f"copied {output.counted(len(done.copied), 'snapshot')} to {done.url}, {output.size_text(done.bytes)} sent; "
        f"there already: {len(done.skipped)}"
    )
