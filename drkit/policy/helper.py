"""The section `helper`: the container that reads and writes volumes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from drkit.policy.section import Section
from drkit.policy.values import IMAGE_REF, matching

HelperImage = Annotated[
    str,
    matching(f"auto|{IMAGE_REF}", "auto, or the reference of an image with BusyBox tar such as alpine:3.20"),
]


class HelperSettings(Section):
    """The container that reads and writes volumes."""

    image: HelperImage = Field(
        default="auto",
        description="auto for drkit's own, which keeps everything; or an image with BusyBox tar, which loses extended "
        "attributes, ACLs, sparseness and fractions of seconds",
    )
