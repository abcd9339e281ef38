"""`drkit restore`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from drkit.cli import output
from drkit.cli.options import At, FromPolicy, Host, SnapshotArgument, verb
from drkit.cli.run import Run
from drkit.cli.targets import ImageRef, VolumeName, named_target
from drkit.cli.values import moment
from drkit.engine.helper.image import HelperImage
from drkit.errors import UsageError, counted
from drkit.operations.restore import restore as restore_target
from drkit.operations.scope import scope_of
from drkit.repository.format.kinds import Kind, Status
from drkit.targets.base import Restored, RestoreOptions, RestorePlan
from drkit.targets.helper import full_image_id


@verb(as_of=True)
def restore(
    run: Run,
    snapshot: SnapshotArgument,
    volume: VolumeName = None,
    image: ImageRef = None,
    to_volume: Annotated[
        str | None, typer.Option("--to-volume", help="Name of the new volume; default: the original name.")
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
            help="Reuse options that name a device, bind path or share: it must be empty, and is written INTO.",
        ),
    ] = False,
    trust_helper: Annotated[
        str | None,
        typer.Option(
            "--trust-helper",
            metavar="ID",
            help="Where no helper image can be built: let the one run that a snapshot keeps under this id. Take the id "
            "from the recovery kit.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and stop.")] = False,
) -> None:
    """Bring back a volume, some of its paths, or an image.

    It reports success only after it has verified the restored data.
    """
    kind, name = named_target("restore", volume, image)
    if kind == Kind.IMAGE and (to_volume or path or same_device or trust_helper):
        raise UsageError(
            "an image is restored whole, and without a helper",
            hint="Leave out --to-volume, --path, --same-device and --trust-helper.",
        )
    run.context.connect_ahead()
    scope = scope_of(run.context, host, from_policy, moment(at, "--at"))
    options = RestoreOptions(to_volume, tuple(path), same_device, full_image_id(trust_helper) if trust_helper else None)
    with run.watching() as context:
        result = restore_target(context, snapshot, kind, name, scope, options, dry_run=dry_run)
    if result.restored is None:
        _print_plan(run, kind, result.plan)
        return
    with run.reporting(f"{kind} {result.restored.name} is restored and verified"):
        _print_restored(run, kind, result.plan.snapshot.id, result.restored)
        run.end(result.error)


def _print_plan(run: Run, kind: Kind, plan: RestorePlan) -> None:
    if run.json:
        output.print_json(
            {
                "snapshot": plan.snapshot.id,
                "time": plan.snapshot.time,
                kind: plan.name,
                "files": plan.files,
                "notes": list(plan.notes),
                **plan.details,
            }
        )
        return
    if kind == Kind.IMAGE:
        output.print_line(f"would load image {plan.name} from {plan.snapshot.id}")
        return
    files = counted(plan.files, "file")
    output.print_line(f"would restore {files} of snapshot {plan.snapshot.id} ({plan.snapshot.time})")
    driver = f" (driver {plan.details['driver']})" if "driver" in plan.details else ""
    output.print_line(f"into the new {kind} {plan.name}{driver}")


def _print_restored(run: Run, kind: Kind, snapshot: str, restored: Restored) -> None:
    if run.json:
        document: dict[str, Any] = {
            "snapshot": snapshot,
            "status": Status.PARTIAL if restored.unresolved or restored.lost else Status.OK,
            kind: restored.name,
            "files": restored.files,
            "bytes": restored.bytes,
            "seconds": restored.seconds,
            "phases": restored.phases,
            "verified": not restored.unresolved,
            "lost": list(restored.lost),
            **({"sample": restored.sample} if restored.sample else {}),
        }
        if kind == Kind.IMAGE:
            document["unresolved"] = list(restored.unresolved)
        if restored.helper is not None:
            document |= {"helper": asdict(restored.helper), "verified_by": _verified_by(restored.helper)}
        output.print_json(document)
    elif run.talks:
        verified = "verified" if not restored.unresolved else "content verified, but not each of its names"
        phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in restored.phases.items())
        sample = ""
        if restored.sample and restored.sample["files"]:
            files, seed = counted(restored.sample["files"], "file"), restored.sample["seed"]
            sample = f", {files} by a second program too (seed {seed})"
        output.print_line(
            f"restored {kind} {restored.name} from snapshot {snapshot}: {counted(restored.files, 'file')}, "
            f"{output.size_text(restored.bytes)} in {restored.seconds:.1f} s ({phases}), {verified}"
            + (f" by {_verified_by(restored.helper)}" if restored.helper and not restored.helper.privileged else "")
            + sample
        )


def _verified_by(helper: HelperImage) -> str:
    return "own helper" if helper.privileged else f"the stored helper {helper.image_id[:19]} alone"
