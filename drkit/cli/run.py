"""One run of a verb: its context, what it may print, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from drkit.cli import output
from drkit.cli.progress import progress_bar
from drkit.cli.streams import OutputFailed, flush_stdout
from drkit.errors import DrkitError
from drkit.events import Logged
from drkit.operations.context import Context


class TerminalEvents(Logged):
    """Messages go to stderr as the options say; progress to a bar, where one is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.advance: Callable[[str, int], None] | None = None

    def progress(self, task: str, count: int) -> None:
        if self.advance is not None:
            self.advance(task, count)


class Run:
    """What a verb's function is given. `json`: only one document on stdout; `quiet`: no results."""

    def __init__(self, context: Context, events: TerminalEvents, *, json: bool, quiet: bool) -> None:
        self.context = context
        self.json = json
        self.quiet = quiet
        self._events = events
        self._unreported = 0

    @property
    def talks(self) -> bool:
        """Whether results are printed as text for people."""
        return not (self.json or self.quiet)

    @contextmanager
    def watching(self) -> Iterator[Context]:
        """Show a progress bar on a terminal while an operation runs. Yields the context."""
        with progress_bar(shown=self.talks) as advance:
            self._events.advance = advance
            try:
                yield self.context
            finally:
                self._events.advance = None

    @contextmanager
    def reporting(self, done: str) -> Iterator[None]:
        """Print the results of what is done. Where stdout does not take them, stderr gets the sentence `done`, so that
        nobody takes it for undone, and the run ends with 1 unless an error decides otherwise.
        """
        try:
            yield
            flush_stdout()
        except OutputFailed as error:
            output.fail(DrkitError(f"{done}, but stdout does not take the report of it: {error.why}"))
            self._unreported = error.exit_code

    def end(self, *errors: DrkitError | None) -> None:
        """Print all errors, and exit with the code of the first. Returns if there are none and all was reported."""
        told = [error for error in errors if error is not None]
        for error in told:
            output.fail(error)
        if told:
            self.exit(told[0].exit_code)
        if self._unreported:
            self.exit(self._unreported)

    def exit(self, code: int) -> NoReturn:
        raise typer.Exit(code)
