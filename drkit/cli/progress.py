"""A progress bar on a terminal, on stderr; nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, cast

from drkit.cli.streams import Forgiving

Advance = Callable[[str, int], None]
"""Takes the task, and how many bytes of it were done since the last call."""


@contextmanager
def progress_bar(*, shown: bool) -> Iterator[Advance]:
    """Yield a function that advances the bar of a task, one bar per task."""
    if not (shown and sys.stderr.isatty()):
        yield lambda task, count: None
        return
    # Deferred: 0.03 s, which a run without a terminal saves.
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(file=cast("IO[str]", Forgiving())), transient=True) as bar:

        def advance(task: str, count: int) -> None:
            if task not in tasks:
                tasks[task] = bar.add_task(task, total=None)
            bar.advance(tasks[task], count)

        yield advance
