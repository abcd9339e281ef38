"""Durations as people write them: a whole number and a unit, such as `24h`."""

from __future__ import annotations

import re
from datetime import timedelta

PATTERN = r"[1-9][0-9]{0,5}[smhdw]"
EXPECTED = "a duration such as 15m, 24h, 7d or 2w"

_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def format_duration(duration: timedelta) -> str:
    """Return the text of a duration that `parse_duration` returned."""
    unit, length = next((unit, length) for unit, length in reversed(_UNITS.items()) if not duration % length)
    return f"{duration // length}{unit}"


def parse_duration(text: str) -> timedelta:
    """Raises ValueError. Zero is refused because it means nothing, and months because their length varies."""
    if not re.fullmatch(PATTERN, text, re.ASCII):
        raise ValueError(f"expected {EXPECTED}")
    return int(text[:-1]) * _UNITS[text[-1]]
