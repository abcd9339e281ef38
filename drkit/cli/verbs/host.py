"""`drkit host show`, `adopt` and `fork`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from drkit.cli import output
from drkit.cli.options import verb
from drkit.cli.run import Run
from drkit.operations import host
from drkit.operations.host import HostDecided, HostShown
from drkit.repository.lines import Line, short

app = typer.Typer(no_args_is_help=True)


@app.command()
@verb()
def show(run: Run) -> None:
    """Show which installation this is, and whose snapshots there are."""
    shown = host.show(run.context)
    if run.json:
        output.print_json(
            {
                "origin": shown.origin or None,
                "state": str(shown.state),
                "series": [_line(line) | {"ours": shown.is_ours(line)} for line in shown.lines],
                "forks": [
                    {"host": fork.host, "policy": fork.policy, "origins": list(fork.origins), "why": fork.why}
                    for fork in shown.forks
                ],
            }
        )
    else:
        _print(shown)


def _line(line: Line) -> dict[str, Any]:
    return {
        "host": line.host,
        "policy": line.policy,
        "origin": line.origins[0] if line.signed else None,
        "adopted": list(line.origins[1:]),
        "snapshots": len(line.snapshots),
        "newest": line.newest.id,
        "time": line.newest.time,
        "sequence": line.newest.sequence,
    }


def _print(shown: HostShown) -> None:
    origin = (
        f"origin {short(shown.origin)} ({shown.origin})" if shown.origin else "no origin yet: it has stored nothing"
    )
    output.print_line(f"this installation: {origin}, in {shown.state}")
    rows = [
        (
            line.host,
            line.policy,
            short(line.origins[0]) + (" (this one)" if shown.is_ours(line) else "") if line.signed else "not signed",
            " ".join(map(short, line.origins[1:])),
            str(len(line.snapshots)),
            line.newest.time[:19] + "Z",
        )
        for line in shown.lines
    ]
    output.print_table(("HOST", "POLICY", "ORIGIN", "TOOK OVER", "SNAPSHOTS", "NEWEST"), rows)
    for fork in shown.forks:
        output.print_line(f"fork: host {fork.host}, policy {fork.policy}: {fork.why}")


@app.command()
@verb()
def adopt(
    run: Run,
    origin: Annotated[
        str | None, typer.Argument(metavar="[ORIGIN]", help="The series, or the first digits of its origin.")
    ] = None,
) -> None:
    """Let this installation go on with the series of another one.

    For a host that was rebuilt, or restored from a copy of itself. The next backup tells the repository.
    """
    _tell(run, host.adopt(run.context, origin))


@app.command()
@verb()
def fork(run: Run) -> None:
    """Let this installation stand for itself.

    For a machine that began as a copy of another one, when both go on. The next backup tells the repository.
    """
    _tell(run, host.fork(run.context))


def _tell(run: Run, decided: HostDecided) -> None:
    with run.reporting(f"it is decided for host {decided.host}, policy {decided.policy}"):
        if run.json:
            output.print_json(
                {
                    "status": "ok",
                    "host": decided.host,
                    "policy": decided.policy,
                    "origin": decided.origin,
                    "adopted": decided.adopted,
                }
            )
        elif run.talks:
            whose = " and ".join(f"origin {short(each)}" for each in decided.adopted)
            what = f"goes on with the series of {whose}" if whose else "stands for itself"
            output.print_line(
                f"host {decided.host}, policy {decided.policy}: origin {short(decided.origin)} {what}; "
                "the next backup tells the repository"
            )
