"""`drkit prune`, `forget` and `repair`."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from drkit.cli import output
from drkit.cli.options import Json, LogFormat, Logging, PolicyFile, Quiet, RepositoryUrl, Verbose
from drkit.cli.progress import BarEvents, progress_bar
from drkit.cli.session import Session
from drkit.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from drkit.catalog.retention import Decision
    from drkit.operations.prune import Pruned

YesReally = Annotated[bool, typer.Option("--yes-really", help="Do what is refused because it is mostly a mistake.")]


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would go and why, and stop.")] = False,
    yes_really: YesReally = False,
    max_repack: Annotated[
        str, typer.Option("--max-repack", metavar="SIZE", help="Move at most so much data out of packs that go.")
    ] = "4G",
    grace: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--grace", metavar="DURATION", help="Wait before deleting, for a store whose listings lag."),
    ] = None,
    host: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--host", help="Apply retention to the snapshots of this host. Default: this one."),
    ] = None,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Apply the policy's retention, then give back the space of what no snapshot needs."""
    from drkit.host.name import host_id
    from drkit.operations.prune import prune as run
    from drkit.policy.durations import EXPECTED, parse_duration
    from drkit.policy.sizes import EXPECTED as SIZE_EXPECTED
    from drkit.policy.sizes import parse_size
    from drkit.repository.prune.prune import Options

    try:
        limit = parse_size(max_repack)
    except ValueError:
        raise UsageError(f"--max-repack {max_repack}: this is no size", hint=f"Write {SIZE_EXPECTED}.") from None
    try:
        seconds = parse_duration(grace).total_seconds() if grace else 0.0
    except ValueError:
        raise UsageError(f"--grace {grace}: this is no duration", hint=f"Write {EXPECTED}.") from None
    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        rules = session.policy
        with progress_bar(shown=not (quiet or json)) as advance:
            pruned = run(
                session.repository,
                rules,
                host or (host_id(rules) if rules else socket.gethostname()),
                Options(limit, yes_really, seconds),
                now=session.now,
                dry_run=dry_run,
                events=BarEvents(advance),
            )
        if pruned.done is not None:
            session.seen.note_removed(session.repository, pruned.done.forgotten)
        if json:
            output.print_json(_document(pruned))
        elif not quiet:
            _print(pruned)
        _tell_trouble(pruned)


def _document(pruned: Pruned) -> dict[str, Any]:
    plan = pruned.condemned
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


def _print(pruned: Pruned) -> None:
    plan, done = pruned.condemned, pruned.done
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
        output.print_line(f"other hosts and policies: {output.counted(pruned.others, 'snapshot')}, untouched")
    size = output.size_text
    stored = plan.survey.stored
    for what, packs in (
        ("of which nothing is needed", plan.dead),
        ("of runs that were cut short", plan.debris),
        ("mostly unneeded, what is needed moves", plan.moving),
        ("mostly unneeded, left for the next prune", plan.postponed),
    ):
        if packs:
            output.print_line(
                f"{output.counted(len(packs), 'pack')} {what}: {size(sum(stored[pack] for pack in packs))}"
            )
    if done is None:
        output.print_line(f"would give back {size(plan.bytes_freed)} of {size(plan.bytes_stored)}")
        return
    freed = size(max(0, done.bytes_deleted - done.bytes_stored))
    output.print_line(
        f"forgot {output.counted(len(done.forgotten), 'snapshot')}, "
        f"deleted {output.counted(done.packs_deleted, 'pack')}, "
        f"moved {size(done.bytes_stored)}, gave back {freed} of {size(plan.bytes_stored)}"
    )
    if pruned.locks_renewed:
        output.print_line(f"renewed the locks of {output.counted(pruned.locks_renewed, 'object')}")


def _tell_trouble(pruned: Pruned) -> None:
    done = pruned.done
    if done is None:
        return
    if pruned.disk_full:
        output.warn("the disk was full: only whole packs were dropped", hint="Run drkit prune again.")
    if done.denied:
        output.warn(
            f"the storage refused to delete {output.counted(len(done.denied), 'object')}, {done.denied[0]} among them",
            hint="Run drkit prune again once its retention lock has ended.",
        )
    if done.damaged:
        for error in done.damaged:
            output.fail(error)
        raise typer.Exit(IntegrityError.exit_code)


def forget(
    snapshot: Annotated[list[str], typer.Argument(metavar="SNAPSHOT...", help="Snapshot ids, or parts of them.")],
    yes_really: YesReally = False,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Remove snapshots. What only they hold is lost; its space comes back with the next prune."""
    from drkit.operations.forget import forget as run

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        done = run(session.repository, snapshot, yes_really=yes_really)
        session.seen.note_removed(session.repository, done.snapshots)
        if json:
            output.print_json({"status": "ok", "forgotten": done.snapshots, "snapshots_left": done.left})
        elif not quiet:
            for run_id in done.snapshots:
                output.print_line(f"forgot snapshot {run_id}")
            output.print_line(f"left: {output.counted(done.left, 'snapshot')}; drkit prune gives back the space")


app = typer.Typer(
    name="repair", help="Make anew what can be told from other objects. Never removes anything.", no_args_is_help=True
)


@app.command("index")
def repair_index(
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """List every pack that no readable index object lists in a new one, from the pack's own directory."""
    from drkit.repository.repair import repair_index as run

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        done = run(session.repository_itself)
        if json:
            errors = [{"object": error.object_name, "problem": error.message} for error in done.damaged]
            output.print_json({"status": "ok", "packs": done.packs, "chunks": done.chunks, "errors": errors})
        elif not quiet:
            output.print_line(
                f"listed {output.counted(done.packs, 'pack')} with {output.counted(done.chunks, 'chunk')}"
            )
        for error in done.damaged:
            output.warn(error.message, hint="Run drkit check: it tells what this hits.")
