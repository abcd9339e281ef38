"""The names of Docker objects, checked before the engine, or a path of its API, can take them for something else."""

from __future__ import annotations

import re

from drkit.errors import UsageError

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_REFERENCE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.:/@-]*")


def check_name(kind: str, name: str) -> str:
    """Return `name`; raise UsageError unless it can name a container, volume or network (`kind`)."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{kind} {name!r}: not a valid Docker name",
            hint="Use letters, digits, '_', '.' and '-', beginning with a letter or a digit.",
        )
    return name


def check_reference(ref: str) -> str:
    """Return `ref`; raise UsageError unless it can refer to an image: by tag, digest or id."""
    if not _REFERENCE.fullmatch(ref) or len(ref) > 4096:
        raise UsageError(
            f"image {ref!r}: not a valid image reference", hint="Use NAME:TAG, NAME@DIGEST or an image id."
        )
    return ref
