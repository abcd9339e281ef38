"""`drkit helper build` and `probe`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from drkit.cli import output
from drkit.cli.options import verb
from drkit.cli.run import Run
from drkit.operations import helper

app = typer.Typer(no_args_is_help=True)


@app.command()
@verb(policy=False, repository=False)
def build(run: Run) -> None:
    """Build the helper image.

    It is built from alpine if a registry answers, else from this host's own tools.
    """
    made = helper.build(run.context)
    with run.reporting(f"helper {made.image_id} is built"):
        if run.json:
            output.print_json(asdict(made))
        else:
            output.print_line(f"built helper {made.image_id} from {made.source}: {made.tar}, {made.arch}")


@app.command()
@verb(repository=False)
def probe(run: Run) -> None:
    """Test on a scratch volume what the helper can keep."""
    found = helper.probe(run.context)
    if run.json:
        output.print_json(asdict(found) | {"complete": found.complete})
    else:
        image = found.helper
        output.print_line(f"helper {image.image_id} from {image.source}: {image.tar}, {found.transport}")
        for name, kept in found.checks.items():
            output.print_line(f"  {'kept' if kept else 'LOST'}  {name}")
    run.end(helper.probe_error(found))
