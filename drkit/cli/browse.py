"""`drkit snapshots`, `ls`, `find` and `diff`."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from drkit.cli import output
from drkit.cli.options import (
    AsOf,
    At,
    FromPolicy,
    Host,
    Json,
    LogFormat,
    Logging,
    PolicyFile,
    Quiet,
    RepositoryUrl,
    Verbose,
)
from drkit.cli.session import Session

if TYPE_CHECKING:
    from drkit.repository.format.snapshot import Target

SnapshotArgument = Annotated[str, typer.Argument(metavar="SNAPSHOT|latest", help="A snapshot's id, or latest.")]


def snapshots(
    as_of: AsOf = None,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    host: Host = None,
    from_policy: FromPolicy = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """List the snapshots in the repository, oldest first, of every host and policy."""
    from drkit.catalog.find import Scope, readable_snapshots

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format, as_of=as_of) as session:
        found, damaged = readable_snapshots(session.repository)
        scope = Scope(host, from_policy)
        found = [snapshot for snapshot in found if scope.admits(snapshot)]
        if json:
            keys = ("kind", "name", "status", "bytes", "files", "lost")
            listing = [
                {
                    **{key: getattr(snapshot, key) for key in ("id", "time", "host", "policy", "status")},
                    "copy_of": snapshot.copy_of or None,
                    "targets": [{key: getattr(target, key) for key in keys} for target in snapshot.targets],
                }
                for snapshot in found
            ]
            output.print_json({"snapshots": listing, "damaged": [error.object_name for error in damaged]})
        else:
            copies = any(snapshot.copy_of for snapshot in found)
            rows = [
                (
                    snapshot.id,
                    *((snapshot.copy_of,) if copies else ()),
                    snapshot.time[:19] + "Z",
                    snapshot.host[:12],
                    snapshot.policy,
                    snapshot.status,
                    ", ".join(f"{target.kind} {target.name}" + _remark(target) for target in snapshot.targets),
                )
                for snapshot in found
            ]
            output.print_table(
                ("ID", *(("COPY OF",) if copies else ()), "TIME", "HOST", "POLICY", "STATUS", "TARGETS"), rows
            )
        for error in damaged:
            output.fail(error)
        if damaged:
            raise typer.Exit(damaged[0].exit_code)


def _remark(target: Target) -> str:
    if target.status != "ok":
        return f" ({target.status})"
    return " (reduced fidelity)" if target.reduced else ""


def ls(
    snapshot: SnapshotArgument,
    target: Annotated[Optional[str], typer.Argument(help="Which target; needed when there are several.")] = None,  # noqa: UP045
    path: Annotated[Optional[str], typer.Argument(help="Only this path and what is below it.")] = None,  # noqa: UP045
    at: At = None,
    host: Host = None,
    from_policy: FromPolicy = None,
    as_of: AsOf = None,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """List the files of a snapshot."""
    from drkit.catalog.find import find_snapshot
    from drkit.operations.browse import choose_target, list_members

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format, as_of=as_of) as session:
        record = find_snapshot(session.repository, snapshot, session.scope(host, from_policy, at))
        entries = list_members(session.repository, choose_target(record, target), path)
        if json:
            output.print_json({"snapshot": record.id, "entries": [entry._asdict() for entry in entries]})
            return
        for entry in entries:
            arrow = f" -> {entry.link}" if entry.link else ""
            owner = f"{entry.uid}:{entry.gid}"
            output.print_line(
                f"{entry.type} {entry.mode:>4} {owner:>11} {entry.size:>12} {_when(entry.mtime)} {entry.path}{arrow}"
            )


def _when(mtime: str) -> str:
    from datetime import datetime

    try:
        return datetime.fromtimestamp(float(mtime), UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):  # a file system can hold years that a calendar cannot
        return f"@{mtime}"


def find(
    pattern: Annotated[str, typer.Argument(help="A pattern in gitignore syntax: *.conf, /etc/hosts, data/**/x.")],
    as_of: AsOf = None,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    host: Host = None,
    from_policy: FromPolicy = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Find paths in all snapshots."""
    from drkit.catalog.find import Scope, readable_snapshots
    from drkit.operations.browse import find_members

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format, as_of=as_of) as session:
        scope = Scope(host, from_policy)
        records, damaged = readable_snapshots(session.repository)
        found = find_members(session.repository, [record for record in records if scope.admits(record)], pattern)
        if json:
            matches = [
                {"snapshot": match.snapshot.id, "target": match.target.name, **match.entry._asdict()} for match in found
            ]
            output.print_json({"matches": matches})
        else:
            for match in found:
                entry = match.entry
                where = f"{match.snapshot.id}  {match.target.name}"
                output.print_line(f"{where}  {entry.size:>12}  {_when(entry.mtime)}  {entry.path}")
        for error in damaged:
            output.fail(error)
        if damaged:
            raise typer.Exit(damaged[0].exit_code)


def diff(
    old: Annotated[str, typer.Argument(help="The earlier snapshot.")],
    new: Annotated[str, typer.Argument(help="The later snapshot.")],
    as_of: AsOf = None,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Show what changed: + added, - removed, M content, U metadata only, T type."""
    from drkit.catalog.find import find_snapshot
    from drkit.operations.browse import diff_snapshots

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format, as_of=as_of) as session:
        before, after = find_snapshot(session.repository, old), find_snapshot(session.repository, new)
        changes = diff_snapshots(session.repository, before, after)
        if json:
            rows = [{"target": each.target, "change": each.change, "path": each.path} for each in changes]
            output.print_json({"old": before.id, "new": after.id, "changes": rows})
            return
        for change in changes:
            output.print_line(f"{change.change} {change.target}: {change.path}")
