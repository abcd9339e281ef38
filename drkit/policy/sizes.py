"""Sizes as people write them: a whole number and a unit. `MB` is a million bytes, `M` and `MiB` are 1024 x 1024."""

from __future__ import annotations

import re

PATTERN = r"[0-9]{1,12}(B|[kKMGT](i?B)?)?"
EXPECTED = "a size such as 500MB, 20MiB or 4G"


def parse_size(text: str) -> int:
    """Return bytes. Raises ValueError. Zero is allowed: a limit of zero forbids what it limits."""
    text = text.strip()
    if not re.fullmatch(PATTERN, text, re.ASCII):
        raise ValueError(f"expected {EXPECTED}")
    unit = text.lstrip("0123456789")
    power = " KMGT".index(unit[0].upper()) if unit not in ("", "B") else 0
    factor: int = (1000 if len(unit) == 2 else 1024) ** power
    return int(text.removesuffix(unit)) * factor
