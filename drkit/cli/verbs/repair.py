"""`drkit repair index`."""

from __future__ import annotations

import typer

from drkit.cli import output
from drkit.cli.options import verb
from drkit.cli.run import Run
from drkit.errors import counted
from drkit.operations.repair import repair_index

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Rebuild what can be derived from other objects. Never removes anything."""


@app.command()
@verb()
def index(run: Run) -> None:
    """Rebuild the index from the packs.

    Packs that no readable index object lists are read and listed in a new one.
    """
    done = repair_index(run.context)
    if run.json:
        errors = [{"object": error.object_name, "problem": error.message} for error in done.damaged]
        output.print_json({"status": "ok", "packs": done.packs, "chunks": done.chunks, "errors": errors})
    elif run.talks:
        output.print_line(f"listed {counted(done.packs, 'pack')} with {counted(done.chunks, 'chunk')}")
    for error in done.damaged:
        output.warn(error.message, hint="Run drkit check: it names what this affects.")
