"""The options that many verbs have, each under one name and with one help text, and the decorator that adds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from drkit.cli import output
from drkit.cli.prompt import prompt
from drkit.cli.run import Run, TerminalEvents
from drkit.cli.values import moment
from drkit.operations.context import Context
from drkit.settings import unknown_variables


class LogFormat(StrEnum):
    text = "text"
    json = "json"


PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", "-p", help="The policy file. Default: $DRKIT_POLICY, then /etc/drkit/policies/*.yaml."),
]
RepositoryUrl = Annotated[
    str | None,
    typer.Option("--repository", help="The repository, instead of the policy's or $DRKIT_REPOSITORY."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Report on stderr what is being done.")]
Logging = Annotated[LogFormat, typer.Option("--log-format", help="How messages on stderr are written.")]
AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="TIME",
        help="Read the repository as it was at this time, in a bucket that keeps versions: objects that "
        "were deleted or overwritten since are read all the same.",
    ),
]
Host = Annotated[str | None, typer.Option("--host", help="Consider only snapshots of this host.")]
FromPolicy = Annotated[
    str | None, typer.Option("--from-policy", help="Consider only snapshots of the policy of this name.")
]
At = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="TIME", help="latest means the newest before this time, RFC 3339 (2026-11-25T03:00Z)."
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="The file of the passphrase. Default: ask on the terminal."),
]
YesReally = Annotated[bool, typer.Option("--yes-really", help="Override a safety refusal.")]
SnapshotArgument = Annotated[str, typer.Argument(metavar="SNAPSHOT|latest", help="A snapshot's id, or latest.")]


def _keyword(name: str, kind: Any, default: object) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)


_EVERYWHERE = [
    _keyword("json", Json, False),
    _keyword("quiet", Quiet, False),
    _keyword("verbose", Verbose, False),
    _keyword("log_format", Logging, LogFormat.text),
]


def verb(
    *, policy: bool = True, repository: bool = True, as_of: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function that takes a `Run`, then its own options.

    The decorator adds the common options and makes the run from them. `policy`, `repository` and `as_of` say whether
    the command has these options.
    """
    common = [
        *([_keyword("as_of", AsOf, None)] if as_of else []),
        *([_keyword("policy", PolicyFile, None)] if policy else []),
        *([_keyword("repository", RepositoryUrl, None)] if repository else []),
        *_EVERYWHERE,
    ]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name])
            for name, parameter in signature(function).parameters.items()
        ][1:]

        def command(**given: Any) -> None:
            given_common = {parameter.name: given.pop(parameter.name) for parameter in common}
            with _run(given_common) as run:
                function(run, **given)
                run.end()

        parameters = [*own, *common]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        setattr(command, "__signature__", Signature(parameters))  # noqa: B010  which typer reads, and mypy does not know
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


@contextmanager
def _run(given: dict[str, Any]) -> Iterator[Run]:
    output.set_up(json_log=given["log_format"] is LogFormat.json, quiet=given["quiet"], verbose=given["verbose"])
    events = TerminalEvents()
    with Context(
        now=datetime.now(UTC),
        policy_file=given.get("policy"),
        url=given.get("repository"),
        as_of=moment(given.get("as_of"), "--as-of"),
        asker=prompt(),
        events=events,
    ) as context:
        for unknown in unknown_variables(context.environ):
            context.events.warn(unknown, hint="Unset it, or give it the name that drkit reads.")
        yield Run(context, events, json=given["json"], quiet=given["quiet"])
