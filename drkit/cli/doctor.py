"""`drkit doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from drkit.cli import output
from drkit.cli.options import Json, LogFormat, Logging, PolicyFile, Quiet, RepositoryUrl, Verbose
from drkit.cli.session import Session
from drkit.errors import DrkitError


def doctor(
    tamper: Annotated[
        bool,
        typer.Option(
            "--tamper",
            help="Instead: try with this host's credentials to delete and to write over scratch objects, and say "
            "whether the repository would survive a thief of the host.",
        ),
    ] = False,
    policy: PolicyFile = None,
    repository: RepositoryUrl = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_format: Logging = LogFormat.text,
) -> None:
    """Try whether everything can work: keys, storage, clock, repository, engine and helper."""
    from drkit.operations.doctor import diagnose, worst

    with Session(policy, repository, quiet=quiet, verbose=verbose, log_format=log_format) as session:
        if tamper:
            _tamper(session, json=json, quiet=quiet)
            return
        findings = diagnose(session.policy, session.access, lambda: session.engine, now=session.now)
        failure = worst(findings)
        if json:
            status = "failed" if failure else max((each.status for each in findings), default="ok")
            output.print_json({"status": status, "findings": [asdict(finding) for finding in findings]})
        else:
            for finding in findings:
                if quiet and finding.status == "ok":
                    continue
                output.print_line(f"{finding.status:<8} {finding.check:<11} {finding.detail}")
                if finding.hint:
                    output.print_line(f"{'':<8} {'':<11} hint: {finding.hint}")
        if failure:
            raise typer.Exit(failure.exit_code)


def _tamper(session: Session, *, json: bool, quiet: bool) -> None:
    from drkit.operations.tamper import try_tampering

    verdict = try_tampering(session.access)
    if json:
        output.print_json({"status": "ok" if verdict.survives else "failed", **asdict(verdict)})
    elif not quiet:
        for attempt in verdict.attempts:
            output.print_line(f"{'survived' if attempt.survived else 'LOST':<8} {attempt.what}: {attempt.answer}")
        if verdict.survives:
            output.print_line("the repository would survive a thief of this host: what is stored stays readable")
    if verdict.left:
        output.warn(f"{len(verdict.left)} scratch objects stay, {verdict.left[0]} among them")
    if not verdict.survives:
        output.fail(DrkitError(f"a stolen host would cost the backups: {verdict.reason}", hint=verdict.hint))
        raise typer.Exit(DrkitError.exit_code)
