"""`drkit backup`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drkit.cli import output
from drkit.cli.options import verb
from drkit.cli.run import Run
from drkit.errors import counted
from drkit.repository.format.kinds import Status

if TYPE_CHECKING:
    from drkit.operations.backup import BackupResult
    from drkit.operations.copy import MirrorResult
    from drkit.repository.format.snapshot import Snapshot
    from drkit.targets.base import Planned


@verb()
def backup(
    run: Run,
    target: Annotated[list[str], typer.Option("--target", help="Only this target of the policy; repeatable.")] = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be captured, and stop.")] = False,
    accept_repository: Annotated[
        str | None,
        typer.Option(
            "--accept-repository",
            metavar="ID",
            help="Back up into this repository although there was another one before.",
        ),
    ] = None,
) -> None:
    """Capture the policy's targets into one new snapshot.

    Afterwards the mirror of the policy, if it has one, receives what it lacks.
    """
    run.context.connect_ahead()
    # Deferred: loaded while the engine answers, which saves a twentieth of a second of a short backup.
    from drkit.operations.backup import backup as run_backup
    from drkit.operations.backup import plan_backup

    if dry_run:
        planned = plan_backup(run.context, target)
        if run.json:
            output.print_json({"targets": [_planned_document(entry) for entry in planned]})
        else:
            rows = [(entry.kind, entry.name, entry.problem or "would be captured") for entry in planned]
            output.print_table(("KIND", "TARGET", "PLAN"), rows)
        return
    with run.watching() as context:
        result = run_backup(context, target, accept_repository=accept_repository)
    record = result.snapshot
    with run.reporting(
        "nothing is stored" if record.status == Status.FAILED else f"snapshot {record.id} is stored, {record.status}"
    ):
        if run.json:
            output.print_json(_document(result))
        elif run.talks:
            _print(result)
    run.end(*result.errors)


def _planned_document(planned: Planned) -> dict[str, Any]:
    fields = asdict(planned)
    del fields["said"], fields["places"]  # a part of the problem, and the engine's own business
    return fields


def _document(result: BackupResult) -> dict[str, Any]:
    record = result.snapshot
    targets = []
    for target in record.targets:
        fields = asdict(target)
        for name in ("tree", "source", "documents", "encoding", "started"):
            del fields[name]
        for name in ("torn", "vanished", "skipped"):
            listing = fields.pop(name)
            fields[name], fields[f"{name}_count"] = listing["names"], listing["count"]
        fields["hint"] = result.hint_for(target)
        targets.append(fields)
    document = {
        "snapshot": None if record.status == Status.FAILED else record.id,
        "status": record.status,
        "time": record.time,
        "targets": targets,
        "losses": [error.message for error in result.losses],
        "locks_renewed": result.locks_renewed,
    }
    return document | ({"mirror": _mirror_document(result.mirror)} if result.mirror else {})


def _mirror_document(mirror: MirrorResult) -> dict[str, Any]:
    # Deferred, like copying itself: 0.06 s, which a backup without a mirror saves.
    from drkit.cli.verbs.copy import document

    copies = document(mirror.copies) if mirror.copies else {}
    return copies | {"status": mirror.status, "url": mirror.url, "error": mirror.error}


def _print(result: BackupResult) -> None:
    record = result.snapshot
    rows = [
        (
            target.kind,
            target.name,
            ", ".join([target.status, *target.flags]),
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
    _print_remarks(record)
    if record.status != Status.FAILED:
        output.print_line(f"snapshot {record.id} {record.status}")
    if result.locks_renewed:
        output.print_line(f"renewed the locks of {counted(result.locks_renewed, 'object')}")
    if result.mirror and result.mirror.copies:
        copied = counted(len(result.mirror.copies.copied), "snapshot")
        output.print_line(f"copied {copied} to {result.mirror.url}")


def _print_remarks(record: Snapshot) -> None:
    for target in record.targets:
        for what, listing in (("torn", target.torn), ("vanished", target.vanished), ("skipped socket", target.skipped)):
            for name in listing.names[:10]:
                output.print_line(f"{what}: {target.name}: {name}")
            if listing.count > 10:
                output.print_line(f"{what}: {target.name}: {listing.count - 10} more")
        if target.reduced:
            output.print_line(f"reduced fidelity: {target.name}: without {'; '.join(target.lost)}")
