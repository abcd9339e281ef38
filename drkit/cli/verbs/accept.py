"""`drkit accept`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from drkit.cli import output
from drkit.cli.options import verb
from drkit.cli.run import Run
from drkit.operations.accept import accept as accept_targets


@verb()
def accept(
    run: Run,
    target: Annotated[
        list[str], typer.Argument(metavar="TARGET...", help="A target of the policy, as NAME or KIND:NAME.")
    ],
) -> None:
    """Let a target that shrank, moved or is gone count as it is.

    The next backup tells the repository. Then what the target held before follows retention again.
    """
    done = accept_targets(run.context, target)
    named = ", ".join(f"{each.kind} {each.name}" for each in done.targets)
    with run.reporting(f"accepted {named}"):
        if run.json:
            output.print_json(
                {
                    "status": "ok",
                    "host": done.host,
                    "policy": done.policy,
                    "targets": [asdict(each) for each in done.targets],
                }
            )
        elif run.talks:
            for each in done.targets:
                output.print_line(f"accepted {each.kind} {each.name} as it is in snapshot {each.snapshot} ({each.was})")
            output.print_line("the next backup tells the repository; until then what was pinned stays")
