"""The entry point: registers the verbs, and turns errors into messages and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from drkit import __version__, tuning
from drkit.cli import output, signals, streams
from drkit.cli.once import require_given_once
from drkit.cli.signals import Stopped
from drkit.cli.streams import OutputFailed
from drkit.errors import DrkitError, UsageError

# The parser's own error is public only through this subclass of it.
_WrongCommandLine: type[Exception] = typer.BadParameter.__mro__[1]


_SIGNALLED = 128
"""Exit codes above it are 128 and the number of a signal."""

_VERBS = {
    "init": "Create the repository; print the recovery kit.",
    "doctor": "Test everything that drkit needs to work.",
    "backup": "Capture the policy's targets into one new snapshot.",
    "snapshots": "List the snapshots of every host and policy, oldest first.",
    "ls": "List the files of a snapshot.",
    "find": "Find paths in all snapshots.",
    "diff": "Show what changed between two snapshots.",
    "restore": "Bring back a volume, some of its paths, or an image.",
    "export": "Write a volume or a saved image as a plain tar.",
    "check": "Check that the structure of the repository is whole.",
    "verify": "Read the data back and compare every file.",
    "copy": "Copy the snapshots that the mirror lacks, newest first.",
    "prune": "Apply retention, then free the space nobody needs.",
    "forget": "Remove snapshots by hand.",
    "accept": "Let a target that shrank, moved or is gone count as it is.",
}
"""The verbs with their summaries. Each is a function in the module of the same name in `verbs`.

The summaries are repeated here so that `drkit --help` need not load all verbs, which takes a second.
"""
_GROUPS = {
    "helper": "The container that reads and writes volumes.",
    "host": "Which installation this is, and whose snapshots it goes on with.",
    "key": "Who opens the backups, and the proof that they still can.",
    "policy": "The file that says what to protect.",
    "repair": "Rebuild what can be derived from other objects.",
}
"""Groups of verbs. Each is the `app` of the module of the same name in `verbs`."""


def build_app(word: str | None = None, *, outline: bool = False) -> typer.Typer:
    """Return the command line with the one verb `word`, or with all of them where `word` is not one.

    `outline`: all verbs by their summaries alone, without loading any.
    """
    app = typer.Typer(
        name="drkit",
        help="Backup and proven disaster recovery for Docker hosts.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_global)
    every = word not in _VERBS and word not in _GROUPS
    for verb, summary in _VERBS.items():
        if outline:
            app.command(verb, help=summary)(_nothing)
        elif every or verb == word:
            app.command(verb)(getattr(import_module(f"drkit.cli.verbs.{verb}"), verb))
    for group, summary in _GROUPS.items():
        if outline:
            app.command(group, help=summary)(_nothing)
        elif every or group == word:
            app.add_typer(import_module(f"drkit.cli.verbs.{group}").app, name=group, help=summary)
    require_given_once(app)
    return app


def _nothing() -> None:
    pass


def _version(asked: bool) -> None:
    if asked:
        output.print_line(f"drkit {__version__}")
        raise typer.Exit


def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    """Backup and proven disaster recovery for Docker hosts."""


def main() -> NoReturn:
    """Run the command line. Exits with the code of the error's class; a traceback only with --debug."""
    streams.make_usable()
    os.umask(0o077)  # what drkit writes is for its own user, unless it says otherwise
    signals.install()
    output.set_up(json_log=False, quiet=False, verbose=False)
    try:
        try:
            code = _explained(_command) or _explained(streams.flush_stdout)
        finally:
            signals.ignore()
    except Stopped as late:  # on the last steps to `ignore`; while it is handled, no other one is raised
        signals.ignore()
        code = late.code
    finally:
        tuning.skip_last_collection()
        streams.settle()
    if code > _SIGNALLED:
        os._exit(code)  # a thread that was not told to end, since the signal came before that, is not waited for
    sys.exit(code)


def _command() -> int:
    word = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    app = build_app(word, outline=word not in _VERBS and word not in _GROUPS)
    return int(app(prog_name="drkit", standalone_mode=False) or 0)


def _explained(work: Callable[[], int | None]) -> int:
    """Return the exit code of a piece of work, after its error, if there is one, was told."""
    try:
        return work() or 0
    except _WrongCommandLine as error:
        return _wrong_command_line(error)
    except OutputFailed as error:
        if "--debug" in sys.argv:
            raise
        if not error.reader_gone:  # `| head` is no accident
            output.fail(error)
        return error.exit_code
    except DrkitError as error:
        if "--debug" in sys.argv:
            raise
        return _tell(error, error.exit_code)
    except Stopped as stopped:
        signals.ignore()
        return _tell(
            DrkitError(f"{stopped}: what was not finished is undone, except what a warning names"), stopped.code
        )
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        if (stopped_first := signals.stopped_by(error)) is not None:
            signals.ignore()
            return _tell(
                DrkitError(
                    f"{stopped_first}, and something may be left: internal error: {type(error).__name__}: {error}",
                    hint="Run the same again: it removes what it finds unfinished.",
                ),
                stopped_first.code,
            )
        hint = "This is a bug in drkit. Run the same with --debug and report what it prints."
        return _tell(DrkitError(f"internal error: {type(error).__name__}: {error}", hint=hint), DrkitError.exit_code)


def _tell(error: DrkitError, code: int) -> int:
    output.fail(error)
    if "--json" in sys.argv:
        with suppress(OutputFailed):  # stderr has it too
            output.print_json({"status": "failed", "error": error.message, "hint": error.hint, "exit_code": code})
            streams.flush_stdout()
    return code


def _wrong_command_line(error: Any) -> int:
    """Report the parser's error in the style of drkit's own."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return UsageError.exit_code
    text = error.format_message().rstrip(".")
    command = error.ctx.command_path if error.ctx else "drkit"
    usage = UsageError(text[:1].lower() + text[1:], hint=f"See {command} --help.")
    return _tell(usage, usage.exit_code)
