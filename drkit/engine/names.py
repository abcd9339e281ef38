"""The names of Docker objects, checked before the engine, or a path of its API, can take them for something else."""

from __future__ import annotations

import re

from drkit.errors import UsageError
from drkit.policy.problem import shorten
from drkit.policy.references import Reference, parse_reference

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")

_LONGEST_SHOWN = 1024


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
    image_reference(ref)
    return ref


def image_reference(ref: str) -> Reference:
    """Return what `ref` asks for; raise UsageError unless it can refer to an image: by tag, digest or id."""
    try:
        return parse_reference(ref)
    except ValueError as error:
        shown = ref if ref.isprintable() and len(ref) <= _LONGEST_SHOWN else repr(shorten(ref))
        raise UsageError(
            f"image {shown}: not a valid image reference: {error}",
            hint="Use NAME:TAG, NAME@DIGEST or an image id with all of its digits.",
        ) from None
