"""`drkit policy check`, `schema` and `example`."""

from __future__ import annotations

import typer

from drkit.cli import output
from drkit.cli.options import Json, LogFormat, Logging, PolicyFile, Quiet, Verbose
from drkit.cli.session import Session
from drkit.storage import check_url

app = typer.Typer(no_args_is_help=True, help="The file that says what to protect.")


@app.command()
def check(
    policy: PolicyFile = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Check a policy; every problem is told with its line."""
    with Session(policy, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        checked = session.required_policy
        check_url(checked.repository.url)
        targets = len(checked.protect.volumes) + len(checked.protect.images)
        if json:
            output.print_json({"status": "ok", "policy": checked.name, "path": str(checked.path)})
        elif not quiet:
            output.print_line(f"{checked.path}: policy {checked.name} is correct, {targets} entries to protect")


@app.command()
def schema(
    json: Json = False, quiet: Quiet = False, verbose: Verbose = False, log_format: Logging = LogFormat.text
) -> None:
    """Print the JSON schema of policies: JSON with and without --json."""
    from drkit.policy import json_schema

    with Session(quiet=quiet, verbose=verbose, log_format=log_format):
        output.print_json(json_schema())


@app.command()
def example(
    json: Json = False, quiet: Quiet = False, verbose: Verbose = False, log_format: Logging = LogFormat.text
) -> None:
    """Print a commented policy to start from."""
    from drkit.policy import example_text

    with Session(quiet=quiet, verbose=verbose, log_format=log_format):
        if json:
            output.print_json({"example": example_text()})
        else:
            output.print_line(example_text().rstrip())
