"""`drkit doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from drkit.cli import output
from drkit.cli.options import verb
from drkit.cli.run import Run
from drkit.errors import counted
from drkit.operations.doctor import Severity, diagnose
from drkit.operations.tamper import try_tampering


@verb()
def doctor(
    run: Run,
    tamper: Annotated[
        bool,
        typer.Option(
            "--tamper",
            help="Instead, try to delete and overwrite scratch objects with this host's credentials, and report "
            "whether the repository would survive if the host were stolen.",
        ),
    ] = False,
) -> None:
    """Test everything that drkit needs to work.

    Keys, storage, clock, repository, engine and helper are tested one by one: one run shows all that is wrong.
    """
    if tamper:
        _tamper(run)
        return
    diagnosis = diagnose(run.context)
    if run.json:
        findings = [asdict(finding) for finding in diagnosis.findings]
        output.print_json({"status": diagnosis.status, "findings": findings})
    else:
        for finding in diagnosis.findings:
            if run.quiet and finding.status == Severity.OK:
                continue
            output.print_line(f"{finding.status:<8} {finding.check:<11} {finding.detail}")
            if finding.hint:
                output.print_line(f"{'':<8} {'':<11} hint: {finding.hint}")
    if diagnosis.exit_code:
        run.exit(diagnosis.exit_code)


def _tamper(run: Run) -> None:
    result = try_tampering(run.context)
    if run.json:
        output.print_json({"status": "ok" if result.survives else "failed", **asdict(result)})
    elif run.talks:
        for attempt in result.attempts:
            output.print_line(f"{'survived' if attempt.survived else 'LOST':<8} {attempt.what}: {attempt.answer}")
        if result.survives:
            output.print_line("the repository would survive a thief of this host: what is stored stays readable")
    if result.left:
        output.warn(f"{counted(len(result.left), 'scratch object')} could not be removed, {result.left[0]} among them")
    run.end(result.error)
