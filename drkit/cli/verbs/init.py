"""`drkit init`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from drkit.cli import output
from drkit.cli.options import verb
from drkit.cli.run import Run
from drkit.errors import UsageError
from drkit.operations.init import InitResult, init_mirror
from drkit.operations.init import init as create
from drkit.report.recovery_kit import kit_text


@verb()
def init(
    run: Run,
    escrow_recipient: Annotated[
        list[str],
        typer.Option("--escrow-recipient", metavar="age1...", help="Public key of a further key holder; repeatable."),
    ] = [],  # noqa: B006
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file", help="Keep the identity in the repository, under the passphrase in this file."
        ),
    ] = None,
    kit: Annotated[
        Path | None,
        typer.Option("--kit", metavar="FILE.html", help="Write the recovery kit to this file too, to be printed."),
    ] = None,
    with_program: Annotated[
        bool,
        typer.Option("--with-program", help="Store drkit itself beside the repository, for a bare host (some 40 MB)."),
    ] = False,
    mirror_of: Annotated[
        str | None,
        typer.Option(
            "--mirror-of",
            metavar="URL",
            help="Create an empty mirror of the repository at URL, for drkit copy to fill.",
        ),
    ] = None,
) -> None:
    """Create the repository; print the recovery kit.

    If the identity file of the policy does not exist, a new identity is created.
    """
    if mirror_of is not None:
        if with_program:
            raise UsageError(
                "a mirror is created without a recovery kit, and only a kit says how to use the program",
                hint="Run drkit key kit --with-program --repository MIRROR afterwards.",
            )
        if escrow_recipient or passphrase_file is not None or kit is not None:
            raise UsageError(
                "a mirror has the keys of its repository: --mirror-of takes none of these options",
                hint="Run drkit key add, drkit key passphrase or drkit key kit on the repository first.",
            )
        _mirror(run, mirror_of)
        return
    made = create(
        run.context,
        escrow=escrow_recipient,
        passphrase_file=passphrase_file,
        kit_file=kit,
        with_program=with_program,
        offer_passphrase=not run.json,  # a program that reads JSON cannot answer questions
    )
    with run.reporting(f"repository {made.repository_id} is created (drkit key kit prints its recovery kit again)"):
        if run.json:
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
                    "program": made.program._asdict() if made.program else None,
                    "writers": "single" if made.capabilities.unsafe else "many",
                    "capabilities": asdict(made.capabilities),
                }
            )
        else:
            _print(made, kit)
    run.end(made.error)


def _print(made: InitResult, kit: Path | None) -> None:
    output.print_line(f"created repository {made.repository_id} at {made.url}")
    if made.program is not None:
        output.print_line(f"stored drkit beside it as {made.program.key}")
    if kit is not None:
        output.print_line(f"wrote the recovery kit to {kit}")
    if made.identity_created:
        output.print_line(f"created identity {made.identity_file} (mode 0600)")
    output.print_line("")
    output.print_line(kit_text(made.kit).rstrip())


def _mirror(run: Run, source: str) -> None:
    made = init_mirror(run.context, source)
    url, repository = made.repository.storage.url, made.repository.id.hex()
    with run.reporting(f"mirror {url} is created"):
        if run.json:
            output.print_json(
                {
                    "repository": repository,
                    "url": url,
                    "mirror_of": made.source,
                    "recipients": [holder.recipient for holder in made.holders],
                    "writers": "single" if made.capabilities.unsafe else "many",
                    "capabilities": asdict(made.capabilities),
                }
            )
            return
        output.print_line(f"created mirror of repository {repository} at {url}")
        for holder in made.holders:
            output.print_line(f"opened by {holder.recipient}" + (f" ({holder.name})" if holder.name else ""))
        output.print_line("it is empty: drkit copy fills it")
