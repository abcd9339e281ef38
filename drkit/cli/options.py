"""The options that every verb has, under one name and one help text."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Optional

import typer


class LogFormat(StrEnum):
    text = "text"
    json = "json"


PolicyFile = Annotated[
    Optional[Path],  # noqa: UP045 typer reads the annotation at run time
    typer.Option("--policy", "-p", help="The policy file. Default: $DRKIT_POLICY, then /etc/drkit/policies/*.yaml."),
]
RepositoryUrl = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--repository", help="The repository, instead of the policy's or $DRKIT_REPOSITORY."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say what is being done, on stderr.")]
Logging = Annotated[LogFormat, typer.Option("--log-format", help="How messages on stderr are written.")]
Host = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--host", help="Consider only snapshots of this host."),
]
FromPolicy = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--from-policy", help="Consider only snapshots of the policy of this name."),
]
AsOf = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--as-of",
        metavar="TIME",
        help="Read the repository as it was then, in a bucket that keeps versions: what was deleted or written over "
        "since does not count.",
    ),
]
At = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--at", metavar="TIME", help="latest means the newest before this time, RFC 3339 (2026-11-25T03:00Z)."
    ),
]
