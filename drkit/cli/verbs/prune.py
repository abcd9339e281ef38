"""`drkit prune`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from drkit.catalog.retention import Decision
from drkit.cli import output
from drkit.cli.options import YesReally, verb
from drkit.cli.run import Run
from drkit.cli.values import seconds, size
from drkit.errors import counted
from drkit.operations.prune import PruneResult
from drkit.operations.prune import prune as run_prune
from drkit.repository.prune.prune import Options


@verb()
def prune(
    run: Run,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would go and why, and stop.")] = False,
    yes_really: YesReally = False,
    max_repack: Annotated[
        str,
        typer.Option("--max-repack", metavar="SIZE", help="Move at most this much data out of packs that are deleted."),
    ] = "4G",
    grace: Annotated[
        str | None,
        typer.Option(
            "--grace", metavar="DURATION", help="Wait this long before deleting, for a store whose listings lag."
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host", help="Apply retention to every series of this host. Default: to what this installation made."
        ),
    ] = None,
) -> None:
    """Apply retention, then free the space nobody needs."""
    options = Options(size(max_repack, "--max-repack"), yes_really, seconds(grace, "--grace"))
    with run.watching() as context:
        pruned = run_prune(context, options, host=host, dry_run=dry_run)
    with run.reporting(_done(pruned)):
        if run.json:
            output.print_json(_document(pruned))
        elif run.talks:
            _print(pruned)
    run.end(*(pruned.done.damaged if pruned.done else ()))


def _done(pruned: PruneResult) -> str:
    if pruned.done is None:
        return "nothing is removed: this was a plan"
    return f"the prune is done, {counted(len(pruned.done.forgotten), 'snapshot')} forgotten"


def _document(pruned: PruneResult) -> dict[str, Any]:
    plan = pruned.plan
    document: dict[str, Any] = {
        "status": "planned" if pruned.done is None else "damaged" if pruned.done.damaged else "ok",
        "keep": [_decision(decision) for decision in pruned.retention.keep],
        "forget": [_decision(decision) for decision in pruned.retention.forget],
        "future": [_decision(decision) for decision in pruned.retention.future],
        "other_snapshots": pruned.others,
        "bytes_stored": plan.bytes_stored,
        "bytes_to_free": plan.bytes_freed,
        "bytes_to_move": plan.bytes_moved,
        "packs": {
            name: {"count": len(packs), "bytes": sum(plan.survey.stored[pack] for pack in packs)}
            for name, packs in (
                ("dead", plan.dead),
                ("moving", plan.moving),
                ("postponed", plan.postponed),
                ("debris", plan.debris),
            )
        },
        "keys_to_delete": len(plan.wraps),
    }
    done = pruned.done
    if done is not None:
        document |= {
            "forgotten": done.forgotten,
            "packs_deleted": done.packs_deleted,
            "bytes_deleted": done.bytes_deleted,
            "packs_stored": done.packs_stored,
            "bytes_moved": done.bytes_stored,
            "keys_deleted": done.keys_deleted,
            "fenced": done.fenced,
            "spared": len(done.spared),
            "denied": done.denied,
            "disk_full": pruned.disk_full,
            "locks_renewed": pruned.locks_renewed,
            "errors": [{"object": error.object_name, "problem": error.message} for error in done.damaged],
        }
    return document


def _decision(decision: Decision) -> dict[str, Any]:
    return {"snapshot": decision.snapshot, "reasons": decision.reasons}


def _print(pruned: PruneResult) -> None:
    plan, done = pruned.plan, pruned.done
    decisions = [
        (decision.snapshot, what, "; ".join(decision.reasons))
        for what, listed in (
            ("keep", pruned.retention.keep),
            ("forget", pruned.retention.forget),
            ("future", pruned.retention.future),
        )
        for decision in listed
    ]
    output.print_table(("SNAPSHOT", "PLAN", "WHY"), sorted(decisions))
    if pruned.others:
        output.print_line(f"other hosts and policies: {counted(pruned.others, 'snapshot')}, untouched")
    size = output.size_text
    stored = plan.survey.stored
    for what, packs in (
        ("that nothing needs", plan.dead),
        ("left by interrupted runs", plan.debris),
        ("mostly unneeded or small, to be repacked", plan.moving),
        ("mostly unneeded or small, left for the next prune", plan.postponed),
    ):
        if packs:
            output.print_line(f"{counted(len(packs), 'pack')} {what}: {size(sum(stored[pack] for pack in packs))}")
    if done is None:
        output.print_line(f"would free {size(plan.bytes_freed)} of {size(plan.bytes_stored)}")
        return
    freed = size(max(0, done.bytes_deleted - done.bytes_stored))
    output.print_line(
        f"forgot {counted(len(done.forgotten), 'snapshot')}, "
        f"deleted {counted(done.packs_deleted, 'pack')}, "
        f"moved {size(done.bytes_stored)}, freed {freed} of {size(plan.bytes_stored)}"
    )
    if pruned.locks_renewed:
        output.print_line(f"renewed the locks of {counted(pruned.locks_renewed, 'object')}")
