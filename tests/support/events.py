"""Events, kept for a test to look at."""

from __future__ import annotations

from collections import Counter


class RecordedEvents:
    """Keeps every event. `bytes` sums up the progress of each task."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.details: list[str] = []
        self.warnings: list[str] = []
        self.bytes: Counter[str] = Counter()

    def note(self, message: str) -> None:
        self.notes.append(message)

    def detail(self, message: str) -> None:
        self.details.append(message)

    def warn(self, message: str, *, hint: str | None = None) -> None:
        self.warnings.append(message)

    def progress(self, task: str, count: int) -> None:
        self.bytes[task] += count
