"""`drkit export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from drkit.cli import output
from drkit.cli.options import At, FromPolicy, Host, SnapshotArgument, verb
from drkit.cli.run import Run
from drkit.cli.streams import flush_stdout
from drkit.cli.targets import AnyTarget, ImageRef, VolumeName, named_tree
from drkit.cli.values import moment
from drkit.errors import UsageError, counted
from drkit.operations.export import export as export_target
from drkit.operations.scope import scope_of


@verb(as_of=True)
def export(
    run: Run,
    snapshot: SnapshotArgument,
    volume: VolumeName = None,
    image: ImageRef = None,
    target: AnyTarget = None,
    output_file: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE|-", help="Where to write it; - is stdout.")
    ] = "-",
    at: At = None,
    host: Host = None,
    from_policy: FromPolicy = None,
) -> None:
    """Write a volume or a saved image as a plain tar."""
    kind, name = named_tree("export", volume, image, target)
    if output_file in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        output_file = "-"
    if output_file == "-" and run.json:
        raise UsageError("stdout cannot hold both the tar and the JSON", hint="Give -o FILE.")
    if output_file == "-" and sys.stdout.isatty():
        raise UsageError("a tar is no use on a terminal", hint="Give -o FILE, or pipe it on.")
    scope = scope_of(run.context, host, from_policy, moment(at, "--at"))
    where = sys.stdout.buffer.write if output_file == "-" else Path(output_file)
    done = export_target(run.context, snapshot, kind, name, scope, where)
    if output_file == "-":
        flush_stdout()
    if run.json:
        document = {kind: name, "snapshot": done.snapshot.id, "status": "ok", "files": done.files, "bytes": done.bytes}
        with run.reporting(f"{output_file} is written"):
            output.print_json(document | {"output": output_file})
    else:
        files, size = counted(done.files, "file"), output.size_text(done.bytes)
        output.note(f"exported {kind} {name} of snapshot {done.snapshot.id}: {files}, {size}")
