"""The options that name a target of a snapshot: one for each kind, and one for all others."""

from __future__ import annotations

from typing import Annotated

import typer

from drkit.errors import UsageError
from drkit.repository.format.kinds import Kind

VolumeName = Annotated[str | None, typer.Option("--volume", help="The volume as the snapshot names it.")]
ImageRef = Annotated[str | None, typer.Option("--image", help="The image as the snapshot names it.")]
AnyTarget = Annotated[
    str | None,
    typer.Option("--target", metavar="KIND:NAME", help="A target of any kind, also of one that a newer drkit made."),
]


def named_target(verb: str, volume: str | None, image: str | None) -> tuple[Kind, str]:
    """Return the one target that was named. Raises UsageError for none, and for two."""
    named = [(kind, name) for kind, name in ((Kind.VOLUME, volume), (Kind.IMAGE, image)) if name is not None]
    if len(named) != 1:
        raise UsageError(f"{verb} needs one volume or one image", hint="Give either --volume NAME or --image REF.")
    return named[0]


def named_tree(verb: str, volume: str | None, image: str | None, target: str | None) -> tuple[str, str]:
    """As `named_target`, but of any kind."""
    if target is None:
        return named_target(verb, volume, image)
    kind, colon, name = target.partition(":")
    if not (colon and kind and name) or (volume, image) != (None, None):
        raise UsageError(f"{verb} needs one target", hint="Give --target KIND:NAME alone, as in volume:shop_data.")
    return kind, name
