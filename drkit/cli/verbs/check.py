"""`drkit check`."""

from __future__ import annotations

from typing import Annotated

import typer

from drkit.cli.options import verb
from drkit.cli.reports import show_report
from drkit.cli.run import Run
from drkit.operations.check import check as check_repository


@verb(as_of=True)
def check(
    run: Run,
    packs: Annotated[
        bool, typer.Option("--packs", help="Read every pack too and compare it with its name: finds bit rot.")
    ] = False,
) -> None:
    """Check that the structure of the repository is whole.

    Keys, index, packs, trees and snapshots are compared; no data is opened. See verify.
    """
    with run.watching() as context:
        result = check_repository(context, packs=packs)
    show_report(run, "check", result)
