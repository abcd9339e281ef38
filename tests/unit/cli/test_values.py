"""Values of options."""

from __future__ import annotations

import pytest

from drkit.cli.values import moment
from drkit.errors import UsageError


@pytest.mark.parametrize("text", [None, ""])
def test_no_time_is_none(text: str | None) -> None:
    """A script gives --at "$WHEN" with nothing in it."""
    assert moment(text, "--at") is None


def test_a_time_without_a_zone_is_in_utc() -> None:
    found = moment("2026-11-25T03:00", "--at")
    assert found is not None and found.isoformat() == "2026-11-25T03:00:00+00:00"
    with pytest.raises(UsageError, match="--at soon: not a valid time"):
        moment("soon", "--at")
