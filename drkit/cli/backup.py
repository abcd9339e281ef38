"""`drkit backup`."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from drkit.cli import output
from drkit.cli.options import Json, LogFormat, Logging, PolicyFile, Quiet, RepositoryUrl, Verbose
from drkit.cli.progress import BarEvents, progress_bar
from drkit.cli.session import Session

if TYPE_CHECKING:
    from drkit.errors import DrkitError
    from drkit.operations.copy import Mirrored
    from drkit.repository.format.snapshot import Snapshot


def backup(
    target: Annotated[list[str], typer.Option("--target", help="Only this target of the policy; repeatable.")] = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be captured, and stop.")] = False,
    accept_repository: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--accept-repository", metavar="ID", help="Back up into this repository although another was there before."
        ),
    ] = None,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Capture the policy's targets into one new snapshot."""
    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        session.connect_ahead()
        from drkit.operations.plan import choose, made_ready, plan_targets
        from drkit.repository.format.names import new_run_id

        planned = choose(plan_targets(session.required_policy, session.engine), target)
        if dry_run:
            if json:
                output.print_json({"targets": [asdict(entry) for entry in planned]})
            else:
                rows = [(entry.kind, entry.name, entry.problem or "would be captured") for entry in planned]
                output.print_table(("KIND", "TARGET", "PLAN"), rows)
            return
        locks: list[int] = []
        run_id = new_run_id(session.now, os.urandom(4))
        with made_ready(session.required_policy, session.engine, planned, run_id=run_id) as ready:
            # Loaded only now, while the first helper starts.
            from drkit.operations.backup import backup as run
            from drkit.operations.backup import backup_error

            with progress_bar(shown=not (quiet or json)) as advance:
                record = run(
                    session.required_policy,
                    session.access,
                    session.engine,
                    ready,
                    now=session.now,
                    seen=session.seen,
                    accept_repository=accept_repository,
                    ask=session.ask_passphrase,
                    progress=lambda kind, name, count: advance(f"{kind} {name}", count),
                    renewed=locks.append,
                )
        if not (json or quiet):
            _print(record)
            if sum(locks):
                output.print_line(f"renewed the locks of {output.counted(sum(locks), 'object')}")
        mirrored = _mirror(session, record, shown=not (quiet or json))
        if json:
            output.print_json(
                _document(record)
                | {"locks_renewed": sum(locks)}
                | ({"mirror": _mirror_document(mirrored)} if mirrored else {})
            )
        errors = [backup_error(record), _mirror_error(mirrored, record) if mirrored else None]
        for error in filter(None, errors):
            output.fail(error)
        for error in filter(None, errors):
            raise typer.Exit(error.exit_code)


def _mirror(session: Session, record: Snapshot, *, shown: bool) -> Mirrored | None:
    """Copy what the policy's mirror lacks; None where there is no mirror, or nothing was backed up."""
    if session.required_policy.mirror is None or record.status == "failed":
        return None
    from drkit.operations.copy import mirror_backup

    with progress_bar(shown=shown) as advance:
        mirrored = mirror_backup(
            lambda: session.repository,
            session.mirror(None),
            host=session.host,
            events=BarEvents(advance),
        )
    if shown and mirrored.copies:
        output.print_line(f"copied {output.counted(len(mirrored.copies.copied), 'snapshot')} to {mirrored.url}")
    return mirrored


def _mirror_error(mirrored: Mirrored, record: Snapshot) -> DrkitError | None:
    from drkit.operations.copy import mirror_error

    return mirror_error(mirrored, record)


def _mirror_document(mirrored: Mirrored) -> dict[str, Any]:
    from drkit.cli.copy import document

    copies = document(mirrored.copies) if mirrored.copies else {}
    return copies | {"status": mirrored.status, "url": mirrored.url, "error": mirrored.error}


def _document(record: Snapshot) -> dict[str, Any]:
    targets = []
    for target in record.targets:
        fields = asdict(target)
        for name in ("tree", "source", "encoding", "started"):
            del fields[name]
        for name in ("torn", "vanished", "skipped"):
            listing = fields.pop(name)
            fields[name], fields[f"{name}_count"] = listing["names"], listing["count"]
        targets.append(fields)
    identifier = None if record.status == "failed" else record.id
    return {"snapshot": identifier, "status": record.status, "time": record.time, "targets": targets}


def _print(record: Snapshot) -> None:
    rows = [
        (
            target.kind,
            target.name,
            target.status,
            str(target.files),
            output.size_text(target.bytes),
            output.size_text(target.bytes_read),
            output.size_text(target.bytes_stored),
            f"{target.seconds:.1f} s",
        )
        for target in record.targets
    ]
    header = ("KIND", "TARGET", "STATUS", "FILES", "SIZE", "READ", "STORED", "TIME")
    output.print_table(header, rows, right=frozenset(range(3, 8)))
    for target in record.targets:
        for what, listing in (("torn", target.torn), ("vanished", target.vanished), ("skipped socket", target.skipped)):
            for name in listing.names[:10]:
                output.print_line(f"{what}: {target.name}: {name}")
            if listing.count > 10:
                output.print_line(f"{what}: {target.name}: {listing.count - 10} more")
        if target.reduced:
            output.print_line(f"reduced fidelity: {target.name}: without {'; '.join(target.lost)}")
    if record.status != "failed":
        output.print_line(f"snapshot {record.id} {record.status}")
