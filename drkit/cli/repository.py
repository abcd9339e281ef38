"""`drkit init`, `check` and `verify`."""

from __future__ import annotations

import secrets
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from drkit.cli import output
from drkit.cli.key import write_kit
from drkit.cli.options import AsOf, Json, LogFormat, Logging, PolicyFile, Quiet, RepositoryUrl, Verbose
from drkit.cli.progress import BarEvents, progress_bar
from drkit.cli.session import Session
from drkit.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from drkit.repository.check import Report
    from drkit.storage.probe import Capabilities


def init(
    escrow_recipient: Annotated[
        list[str],
        typer.Option("--escrow-recipient", metavar="age1...", help="Public key of a further key holder; repeatable."),
    ] = [],  # noqa: B006
    passphrase_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--passphrase-file", help="Keep the identity in the repository, under the passphrase in this file."
        ),
    ] = None,
    kit: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--kit", metavar="FILE.html", help="Write the recovery kit to this file too, to be printed."),
    ] = None,
    mirror_of: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--mirror-of", metavar="URL", help="Make an empty mirror of the repository there, for drkit copy to fill."
        ),
    ] = None,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Create the repository, and an identity where there is none; print the recovery kit."""
    from drkit.operations.init import init as run
    from drkit.report.recovery_kit import kit_html, kit_text

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        if mirror_of is not None:
            if escrow_recipient or passphrase_file is not None or kit is not None:
                raise UsageError(
                    "a mirror has the keys of its repository: --mirror-of stands alone",
                    hint="Run drkit key add, drkit key passphrase or drkit key kit on the repository before.",
                )
            _init_mirror(session, mirror_of, json=json)
            return
        if kit is not None and kit.exists():
            raise UsageError(f"{kit} exists, and is not overwritten", hint="Name another file for the recovery kit.")
        passphrase = None
        if passphrase_file is not None or (sys.stdin.isatty() and not escrow_recipient and not json):
            if passphrase_file is None:
                output.note("The identity that opens the backups should not be on this host alone.")
            question = "Passphrase to keep it in the repository as well"
            passphrase = session.new_passphrase(passphrase_file, question, optional=True)
        made = run(
            session.access, now=session.now, escrow=escrow_recipient, passphrase=passphrase, ask=session.ask_passphrase
        )
        if kit is not None:
            write_kit(kit_html(made.kit), kit)
        if json:
            output.print_json(
                {
                    "repository": made.repository_id,
                    "url": made.url,
                    "identity_file": str(made.identity_file) if made.identity_file else None,
                    "identity_created": made.identity_created,
                    "recipients_file": str(made.recipients_file),
                    "recipients": made.recipients,
                    "second_home": made.second_home,
                    "recovery_kit": kit_text(made.kit),
                    "kit_file": str(kit) if kit else None,
                    "writers": "single" if made.capabilities.unsafe else "many",
                    "capabilities": asdict(made.capabilities),
                }
            )
        else:
            output.print_line(f"created repository {made.repository_id} at {made.url}")
            if kit is not None:
                output.print_line(f"wrote the recovery kit to {kit}")
            if made.identity_created:
                output.print_line(f"created identity {made.identity_file} (mode 0600)")
            output.print_line("")
            output.print_line(kit_text(made.kit).rstrip())
        _tell_capabilities(made.url, made.capabilities)
        if not made.second_home:
            output.warn(
                f"the identity is in one place alone: if {made.identity_file or 'it'} is lost, so is every backup",
                hint="Copy it to a safe place, or add a second one: drkit key add, or drkit key passphrase.",
            )


def _init_mirror(session: Session, source: str, *, json: bool) -> None:
    from drkit.operations.init import init_mirror

    made = init_mirror(session.new_mirror(source), session.repository_at(source), now=session.now)
    session.seen.remember(made.repository, ())  # where it takes the place of one that was lost, we put it there
    url = made.repository.storage.url
    if json:
        output.print_json(
            {
                "repository": made.repository.id.hex(),
                "url": url,
                "mirror_of": made.source,
                "recipients": [holder.recipient for holder in made.holders],
                "writers": "single" if made.capabilities.unsafe else "many",
                "capabilities": asdict(made.capabilities),
            }
        )
    else:
        output.print_line(f"created mirror of repository {made.repository.id.hex()} at {url}")
        for holder in made.holders:
            output.print_line(f"opened by {holder.recipient}" + (f" ({holder.name})" if holder.name else ""))
        output.print_line("it is empty: drkit copy fills it")
    _tell_capabilities(url, made.capabilities)


def _tell_capabilities(url: str, capabilities: Capabilities) -> None:
    for remark in capabilities.notes:
        output.note(remark)
    if capabilities.unsafe:
        output.warn(
            f"{url} takes one writer at a time, since {capabilities.unsafe}: a backup or prune refuses "
            "to start while another one works, from whatever host",
            hint="Let the schedules of hosts that share it not overlap, or give each host a repository of its own.",
        )


def check(
    packs: Annotated[
        bool, typer.Option("--packs", help="Read every pack too and compare it with its name: finds bit rot.")
    ] = False,
    as_of: AsOf = None,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Check that keys, index, packs, trees and snapshots agree. Opens no data: see verify."""
    from drkit.repository.check import check_packs, check_repository

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format, as_of=as_of) as session:
        if packs:
            with progress_bar(shown=not (quiet or json)) as advance:
                report = check_packs(session.repository_itself, BarEvents(advance))
        else:
            report = check_repository(session.repository_itself)
        _report("check", report, json=json)


def verify(
    snapshot: Annotated[Optional[str], typer.Argument(metavar="[SNAPSHOT]", help="Default: all.")] = None,  # noqa: UP045
    read_data_subset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--read-data-subset", metavar="PERCENT", help="Read only so much of the packs, chosen by chance."),
    ] = None,
    seed: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--seed", help="Choose the same packs as the run that printed this."),
    ] = None,
    as_of: AsOf = None,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Read the data back and compare every file with its digest."""
    from drkit.catalog.find import find_snapshot
    from drkit.operations.verify import verify_repository, verify_subset

    if snapshot and read_data_subset:
        raise UsageError("a subset is one of all packs, not of a snapshot", hint="Leave out SNAPSHOT.")
    if seed and not read_data_subset:
        raise UsageError("--seed chooses a subset", hint="Add --read-data-subset PERCENT.")
    percent = _percent(read_data_subset) if read_data_subset else None
    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format, as_of=as_of) as session:
        with progress_bar(shown=not (quiet or json)) as advance:
            if percent is not None:
                seed = seed or secrets.token_hex(4)
                output.note(f"reading about {percent:g}% of the packs, seed {seed}")
                report = verify_subset(session.repository_itself, percent, seed, BarEvents(advance))
            else:
                chosen = [find_snapshot(session.repository_itself, snapshot)] if snapshot else None
                report = verify_repository(session.repository_itself, chosen, BarEvents(advance))
        _report("verify", report, json=json, seed=seed)


def _percent(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise UsageError(f"--read-data-subset {text}: this is no percentage", hint="Write one like 5%.")
    return percent


def _report(verb: str, report: Report, *, json: bool, seed: str | None = None) -> None:
    if json:
        errors = [
            {"object": each.object, "problem": each.problem, "snapshots": each.snapshots, "files": each.files}
            for each in report.findings.values()
        ]
        status = "ok" if report.ok else "damaged"
        notes = [{"object": name, "note": text} for name, text in report.notes.items()]
        document = {
            "status": status,
            "objects": report.objects,
            "bytes": report.bytes,
            "errors": errors,
            "notes": notes,
        }
        output.print_json(document | ({"seed": seed} if seed else {}))
    else:
        for finding in report.findings.values():
            output.print_line(f"{finding.object}: {finding.problem}")
            for snapshot in finding.snapshots:
                output.print_line(f"  hits snapshot {snapshot}")
            for name in finding.files[:20]:
                output.print_line(f"  hits {name}")
            if len(finding.files) > 20:
                output.print_line(f"  and {len(finding.files) - 20} more")
        for name, text in report.notes.items():
            output.print_line(f"note: {name}: {text}")
        output.print_line(
            f"{verb}: {output.counted(report.objects, 'object')}, {output.size_text(report.bytes)} read, "
            f"{len(report.findings)} damaged" + ("" if report.findings else ": ok")
        )
    if not report.ok:
        error = IntegrityError(
            f"damaged or missing: {output.counted(len(report.findings), 'object')}",
            hint="Restore them from a copy of the repository, or move them away: drkit backup then stores anew.",
        )
        output.fail(error)
        raise typer.Exit(error.exit_code)
