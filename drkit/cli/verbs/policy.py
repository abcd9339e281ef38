"""`drkit policy check`, `show`, `schema` and `example`."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from drkit.catalog.find import LATEST
from drkit.cli import output
from drkit.cli.options import At, FromPolicy, Host, verb
from drkit.cli.run import Run
from drkit.cli.values import moment
from drkit.operations.policy import check_policy, show_policy
from drkit.operations.scope import scope_of
from drkit.policy import example_text, json_schema

app = typer.Typer(no_args_is_help=True)

_STEERING = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@app.command()
@verb(repository=False)
def check(run: Run) -> None:
    """Check a policy, and name every problem with its line."""
    policy = check_policy(run.context)
    targets = len(policy.protect.volumes) + len(policy.protect.images)
    if run.json:
        output.print_json({"status": "ok", "policy": policy.name, "path": str(policy.path)})
    elif run.talks:
        output.print_line(f"{policy.path}: policy {policy.name} is correct, {targets} entries to protect")


@app.command()
@verb(as_of=True)
def show(
    run: Run,
    snapshot: Annotated[str, typer.Argument(metavar="[SNAPSHOT|latest]", help="Default: latest.")] = LATEST,
    at: At = None,
    host: Host = None,
    from_policy: FromPolicy = None,
) -> None:
    """Print the policy under which a snapshot was made.

    It is for a host that has lost its own. It is data, so this needs the identity.
    """
    stored = show_policy(run.context, snapshot, scope_of(run.context, host, from_policy, moment(at, "--at")))
    if run.json:
        made = stored.snapshot
        output.print_json({"snapshot": made.id, "host": made.host, "policy": made.policy, "text": stored.text})
    else:  # no policy has characters that steer a terminal, but somebody may have forged this one
        output.print_line(_STEERING.sub(lambda found: f"\\x{ord(found[0]):02x}", stored.text).removesuffix("\n"))


@app.command()
@verb(policy=False, repository=False)
def schema(run: Run) -> None:
    """Print the JSON Schema of policies.

    The output is JSON, with or without --json.
    """
    output.print_json(json_schema())


@app.command()
@verb(policy=False, repository=False)
def example(run: Run) -> None:
    """Print a commented policy to start from."""
    if run.json:
        output.print_json({"example": example_text()})
    else:
        output.print_line(example_text().rstrip())
