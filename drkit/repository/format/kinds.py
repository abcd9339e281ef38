"""What a target can be, and what can become of it."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a target is. A record may hold other kinds, which a newer drkit wrote: they are kept, listed and copied."""

    VOLUME = "volume"
    IMAGE = "image"


class Status(StrEnum):
    """What became of a target, or of a whole run: `partial`: it is there, and not as whole as it should be."""

    OK = "ok"
    PARTIAL = "partial"
    FAILED = "failed"
