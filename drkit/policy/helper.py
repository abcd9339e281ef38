"""The section `helper`: the container that reads and writes volumes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from drkit.policy.problem import quote
from drkit.policy.references import PATTERN, parse_reference
from drkit.policy.section import Section
from drkit.policy.values import Unexpected, Value, matched, text

_EXPECTED = "auto, or the reference of an image with BusyBox tar such as alpine:3.20"


def _helper_image(value: object) -> str:
    ref = matched(value, PATTERN, _EXPECTED)
    try:
        parse_reference(ref)
    except ValueError as error:
        raise Unexpected(_EXPECTED, f"{quote(ref)}: {error}") from None
    return ref


HelperImage = Annotated[str, Value(_helper_image, text(PATTERN))]
"""`auto` fits the grammar of references too."""


class HelperSettings(Section):
    """The container that reads and writes volumes."""

    image: HelperImage = Field(
        default="auto",
        description="auto for drkit's own, which keeps everything; or an image with BusyBox tar, which loses extended "
        "attributes, ACLs, sparseness and fractions of seconds",
    )
