"""Options that are parsed from text. Each function raises a UsageError that names the option."""

from __future__ import annotations

from datetime import UTC, datetime

from drkit.errors import UsageError
from drkit.policy import durations, sizes


def moment(text: str | None, option: str) -> datetime | None:
    """Return a time, in UTC if the text names no zone; None for None and for an empty text."""
    if not text:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text}: not a valid time", hint="Write it like 2026-11-25T03:00:00Z.") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def size(text: str, option: str) -> int:
    """Return a number of bytes."""
    try:
        return sizes.parse_size(text)
    except ValueError:
        raise UsageError(f"{option} {text}: not a valid size", hint=f"Write {sizes.EXPECTED}.") from None


def seconds(text: str | None, option: str) -> float:
    """Return a duration in seconds, 0 for None."""
    try:
        return durations.parse_duration(text).total_seconds() if text else 0.0
    except ValueError:
        raise UsageError(f"{option} {text}: not a valid duration", hint=f"Write {durations.EXPECTED}.") from None


def percent(text: str, option: str) -> float:
    """Return a percentage above 0 and up to 100. The % sign is optional."""
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = 0.0
    if not 0 < number <= 100:
        raise UsageError(f"{option} {text}: not a valid percentage", hint="Write one like 5%.")
    return number
