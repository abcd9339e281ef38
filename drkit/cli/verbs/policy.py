"""`drkit policy check`, `schema` and `example`."""

from __future__ import annotations

import typer

from drkit.cli import output
from drkit.cli.options import verb
from drkit.cli.run import Run
from drkit.operations.policy import check_policy
from drkit.policy import example_text, json_schema

app = typer.Typer(no_args_is_help=True)


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
