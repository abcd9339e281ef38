"""`drkit restore` and `drkit export`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

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
from drkit.cli.progress import progress_bar
from drkit.cli.session import Session
from drkit.errors import DrkitError, UsageError, reason

if TYPE_CHECKING:
    from drkit.operations.restore import Restored, RestorePlan

SnapshotArgument = Annotated[str, typer.Argument(metavar="SNAPSHOT|latest", help="A snapshot's id, or latest.")]
VolumeName = Annotated[Optional[str], typer.Option("--volume", help="The volume as the snapshot names it.")]  # noqa: UP045


def restore(
    snapshot: SnapshotArgument,
    volume: VolumeName = None,
    image: Annotated[Optional[str], typer.Option("--image", help="The image as the snapshot names it.")] = None,  # noqa: UP045
    to_volume: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--to-volume", help="Name of the new volume; default: the original name."),
    ] = None,
    path: Annotated[
        list[str], typer.Option("--path", metavar="GLOB", help="Only these paths, in gitignore syntax; repeatable.")
    ] = [],  # noqa: B006
    at: At = None,
    host: Host = None,
    from_policy: FromPolicy = None,
    same_device: Annotated[
        bool,
        typer.Option(
            "--same-device",
            help="Reuse options that name a device, bind path or share: this writes INTO the original's data.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and stop.")] = False,
    as_of: AsOf = None,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Bring back a volume, some of its paths, or an image; verified before success is said."""
    if (volume is None) == (image is None):
        raise UsageError("restore needs a volume or an image", hint="Give --volume NAME or --image REF.")
    if image is not None and (to_volume or path or same_device):
        raise UsageError("an image is restored whole", hint="Leave out --to-volume, --path and --same-device.")
    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format, as_of=as_of) as session:
        session.connect_ahead()
        scope = session.scope(host, from_policy, at)
        if volume is not None:
            from drkit.catalog.find import find_target
            from drkit.operations.restore import plan_restore, restore_volume

            record, target = find_target(session.repository, snapshot, "volume", volume, scope)
            plan = plan_restore(
                session.engine,
                session.repository,
                record,
                target,
                to_volume=to_volume,
                paths=path,
                same_device=same_device,
                journal=session.journal,
            )
            for text in plan.notes:
                output.note(text)
            if dry_run:
                _print_plan(plan, json=json)
                return
            with progress_bar(shown=not (quiet or json)) as advance:
                restored = restore_volume(
                    session.engine,
                    session.repository,
                    plan,
                    same_device=same_device,
                    journal=session.journal,
                    progress=lambda count: advance(f"volume {plan.volume}", count),
                )
            session.tell_damage()
            _print_restored(record.id, "volume", restored, json=json, quiet=quiet)
            return
        _restore_image(session, snapshot, str(image), scope, dry_run=dry_run, json=json)


def _restore_image(session: Session, snapshot: str, image: str, scope: Any, *, dry_run: bool, json: bool) -> None:
    from drkit.catalog.find import find_target
    from drkit.operations.restore import restore_image

    record, target = find_target(session.repository, snapshot, "image", image, scope)
    if dry_run:
        document = {"snapshot": record.id, "image": target.name, "bytes": target.bytes, "tags": target.source["tags"]}
        output.print_json(document) if json else output.print_line(f"would load image {target.name} from {record.id}")
        return
    with progress_bar(shown=not (session.quiet or json)) as advance:
        restored = restore_image(
            session.engine, session.repository, target, lambda count: advance(f"image {image}", count)
        )
    session.tell_damage()
    _print_restored(record.id, "image", restored, json=json, quiet=session.quiet)


def _print_plan(plan: RestorePlan, *, json: bool) -> None:
    document = {
        "snapshot": plan.snapshot.id,
        "time": plan.snapshot.time,
        "volume": plan.volume,
        "driver": plan.options.driver,
        "options": plan.options.options,
        "files": plan.files,
        "notes": list(plan.notes),
    }
    if json:
        output.print_json(document)
        return
    output.print_line(
        f"would restore {output.counted(plan.files, 'file')} of snapshot {plan.snapshot.id} ({plan.snapshot.time})"
    )
    output.print_line(f"into the new volume {plan.volume} (driver {plan.options.driver})")


def _print_restored(snapshot: str, kind: str, restored: Restored, *, json: bool, quiet: bool) -> None:
    if json:
        output.print_json(
            {
                "snapshot": snapshot,
                "status": "ok",
                kind: restored.name,
                "files": restored.files,
                "bytes": restored.bytes,
                "seconds": restored.seconds,
                "phases": restored.phases,
                "verified": True,
            }
        )
        return
    if quiet:
        return
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in restored.phases.items())
    output.print_line(
        f"restored {kind} {restored.name} from snapshot {snapshot}: {output.counted(restored.files, 'file')}, "
        f"{output.size_text(restored.bytes)} in {restored.seconds:.1f} s ({phases}), verified"
    )


def export(
    snapshot: SnapshotArgument,
    volume: VolumeName = None,
    image: Annotated[Optional[str], typer.Option("--image", help="The image as the snapshot names it.")] = None,  # noqa: UP045
    output_file: Annotated[str, typer.Option("-o", "--output", metavar="FILE|-", help="Where to; - is stdout.")] = "-",
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
    """Write a volume (or a saved image) as a plain tar."""
    from drkit.catalog.find import find_target
    from drkit.operations.export import export as run

    if (volume is None) == (image is None):
        raise UsageError("export needs a volume or an image", hint="Give --volume NAME or --image REF.")
    if output_file == "-" and json:
        raise UsageError("stdout cannot hold both the tar and the JSON", hint="Give -o FILE.")
    if output_file == "-" and sys.stdout.isatty():
        raise UsageError("a tar is no use on a terminal", hint="Give -o FILE, or pipe it on.")
    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format, as_of=as_of) as session:
        kind, name = ("volume", volume) if volume is not None else ("image", image)
        scope = session.scope(host, from_policy, at)
        record, target = find_target(session.repository, snapshot, kind, str(name), scope)
        if output_file == "-":
            files, size = run(session.repository, target, sys.stdout.buffer.write)
            sys.stdout.buffer.flush()
        else:
            files, size = _export_file(session, target, Path(output_file), run)
        session.tell_damage()
        if json:
            document = {"snapshot": record.id, "status": "ok", kind: name, "files": files, "bytes": size}
            output.print_json(document | {"output": output_file})
        else:
            counted = output.counted(files, "file")
            output.note(f"exported {kind} {name} of snapshot {record.id}: {counted}, {output.size_text(size)}")


def _export_file(session: Session, target: Any, path: Path, run: Any) -> tuple[int, int]:
    """Write beside the name and rename: a file of that name is whole. An existing one is never overwritten."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    if path.exists():
        raise UsageError(f"{path} exists", hint="Remove it, or name another file.")
    try:
        with unfinished.open("wb") as file:
            counts: tuple[int, int] = run(session.repository, target, file.write)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except OSError as error:
        raise DrkitError(f"cannot write {path}: {reason(error)}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return counts
