"""`drkit verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from drkit.cli.options import verb
from drkit.cli.reports import show_report
from drkit.cli.run import Run
from drkit.cli.values import percent
from drkit.errors import UsageError
from drkit.operations.verify import verify as verify_data


@verb(as_of=True)
def verify(
    run: Run,
    snapshot: Annotated[str | None, typer.Argument(metavar="[SNAPSHOT]", help="Default: all.")] = None,
    read_data_subset: Annotated[
        str | None,
        typer.Option(
            "--read-data-subset", metavar="PERCENT", help="Read only this share of the packs, chosen at random."
        ),
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option("--seed", help="Choose the same packs as the run that printed this seed."),
    ] = None,
) -> None:
    """Read the data back and compare every file."""
    if snapshot and read_data_subset:
        raise UsageError("a subset is taken from all packs, not from a snapshot", hint="Leave out SNAPSHOT.")
    if seed and not read_data_subset:
        raise UsageError("--seed does nothing without a subset", hint="Add --read-data-subset PERCENT.")
    share = percent(read_data_subset, "--read-data-subset") if read_data_subset else None
    with run.watching() as context:
        result = verify_data(context, snapshot, percent=share, seed=seed)
    show_report(run, "verify", result)
