"""Everything drkit prints: results on stdout, messages on stderr."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from drkit.errors import DrkitError

log = logging.getLogger("drkit")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        fields = {"time": moment.isoformat(), "level": record.levelname.lower(), "message": record.getMessage()}
        hint = getattr(record, "hint", None)
        return json.dumps(fields | ({"hint": hint} if hint else {}))


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        lead = (
            "drkit: " if record.levelno >= logging.ERROR else "warning: " if record.levelno >= logging.WARNING else ""
        )
        hint = getattr(record, "hint", None)
        return f"{lead}{record.getMessage()}" + (f"\nhint: {hint}" if hint else "")


def set_up(*, json_log: bool, quiet: bool, verbose: bool) -> None:
    """Send messages to stderr. Errors and warnings are always sent, notes unless `quiet`, details only if `verbose`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if json_log else _TextFormatter())
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def note(message: str) -> None:
    log.info(message)


def warn(message: str, *, hint: str | None = None) -> None:
    log.warning(message, extra={"hint": hint})


def fail(error: DrkitError) -> None:
    log.error(error.message, extra={"hint": error.hint})


def print_json(document: dict[str, Any]) -> None:
    """Print one field, or one element of a list, per line. The indentation of `json` itself takes ten times as long."""
    fields = (f"  {_json(name)}: {_json_field(value)}" for name, value in document.items())
    print("{\n" + ",\n".join(fields) + "\n}")


def _json_field(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"    {_json(element)}" for element in value) + "\n  ]"
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, default=list)


def print_line(text: str) -> None:
    print(text)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> None:
    """Print columns. `right` holds the numbers of those that are aligned to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def time_text(mtime: str) -> str:
    """Return a time, given as the text of seconds since the epoch, as people read it. File systems hold years that
    `datetime` does not; those stay as they are.
    """
    try:
        return datetime.fromtimestamp(float(mtime), UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"@{mtime}"


def size_text(count: float) -> str:
    """Bytes as people read them: 1.4 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
