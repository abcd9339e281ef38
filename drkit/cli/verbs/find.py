"""`drkit find`."""

from __future__ import annotations

from typing import Annotated

import typer

from drkit.catalog.find import Scope
from drkit.cli import output
from drkit.cli.options import FromPolicy, Host, verb
from drkit.cli.run import Run
from drkit.operations.find import find as find_paths


@verb(as_of=True)
def find(
    run: Run,
    pattern: Annotated[str, typer.Argument(help="A pattern in gitignore syntax: *.conf, /etc/hosts, data/**/x.")],
    host: Host = None,
    from_policy: FromPolicy = None,
) -> None:
    """Find paths in all snapshots."""
    result = find_paths(run.context, pattern, Scope(host, from_policy))
    if run.json:
        matches = [
            {"snapshot": match.snapshot.id, "target": match.target.name, **match.entry._asdict()}
            for match in result.matches
        ]
        output.print_json({"matches": matches})
    else:
        for match in result.matches:
            entry = match.entry
            where = f"{match.snapshot.id}  {match.target.name}"
            output.print_line(f"{where}  {entry.size:>12}  {output.time_text(entry.mtime)}  {entry.path}")
    run.end(*result.damaged)
