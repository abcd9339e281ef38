"""`drkit helper build` and `probe`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from drkit.cli import output
from drkit.cli.options import Json, LogFormat, Logging, PolicyFile, Quiet, Verbose
from drkit.cli.session import Session
from drkit.errors import DrkitError

app = typer.Typer(no_args_is_help=True, help="The container that reads and writes volumes.")


@app.command()
def build(
    json: Json = False, quiet: Quiet = False, verbose: Verbose = False, log_format: Logging = LogFormat.text
) -> None:
    """Build the helper image: from alpine where a registry answers, else from this host's own tools."""
    from drkit.engine.helper.image import build_helper

    with Session(quiet=quiet, verbose=verbose, log_format=log_format) as session:
        helper = build_helper(session.engine)
        if json:
            output.print_json(asdict(helper))
        else:
            output.print_line(f"built helper {helper.image_id} from {helper.source}: {helper.tar}, {helper.arch}")


@app.command()
def probe(
    policy: PolicyFile = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Try on a scratch volume what the helper can keep on this engine."""
    from drkit.engine.helper.image import ensure_helper
    from drkit.engine.helper.probe import probe_helper

    with Session(policy, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        image = session.policy.helper.image if session.policy else "auto"
        found = probe_helper(session.engine, ensure_helper(session.engine, image))
        if json:
            output.print_json(asdict(found) | {"complete": found.complete})
        else:
            helper = found.helper
            output.print_line(f"helper {helper.image_id} from {helper.source}: {helper.tar}, {found.transport}")
            for name, kept in found.checks.items():
                output.print_line(f"  {'kept' if kept else 'LOST'}  {name}")
        if found.helper.full and not found.complete:
            error = DrkitError("the helper does not keep what it must", hint="Build it anew: drkit helper build.")
            output.fail(error)
            raise typer.Exit(error.exit_code)
