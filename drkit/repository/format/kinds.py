"""What a target can be, and what can become of it."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a target is. A newer drkit may have written records with other kinds: they are kept, listed and copied."""

    VOLUME = "volume"
    IMAGE = "image"


class Status(StrEnum):
    """What became of a target, or of a whole run. `partial` means that something was captured, but not all."""

    OK = "ok"
    PARTIAL = "partial"
    FAILED = "failed"
