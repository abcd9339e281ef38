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
    """Rebuild what can be derived from other objects. Removes only what these make superfluous."""


@app.command()
@verb()
def index(run: Run) -> None:
    """Rebuild the index from the packs.

    If no readable index object lists a pack as it is, a new one does. Index objects that contradict the packs, or
    cannot be read, are then deleted.
    """
    done = repair_index(run.context)
    with run.reporting("the index is repaired"):
        if run.json:
            errors = [{"object": error.object_name, "problem": error.message} for error in [*done.lying, *done.damaged]]
            document = {"status": "ok", "packs": done.packs, "chunks": done.chunks, "errors": errors}
            output.print_json(document | {"deleted": done.deleted, "denied": done.denied})
        elif run.talks:
            listed = f"listed {counted(done.packs, 'pack')} with {counted(done.chunks, 'chunk')}"
            output.print_line(listed if done.packs or done.damaged else "every pack was listed already, as it is")
            if done.deleted:
                output.print_line(f"deleted {counted(len(done.deleted), 'index object')}")
    for error in done.lying:
        output.warn(error.message, hint=error.hint)
    for error in done.damaged:
        output.warn(error.message, hint="Run drkit check: it names what this affects.")
    if done.denied:
        output.warn(
            f"the storage refused to delete {counted(len(done.denied), 'index object')}, {done.denied[0]} among them",
            hint="Run drkit repair index again once the lock has ended; no prune runs until then.",
        )
