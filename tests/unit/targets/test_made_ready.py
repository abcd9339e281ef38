"""What is looked at before the first helper of a run."""

from __future__ import annotations

from typing import Any

import pytest

from drkit.errors import UsageError
from drkit.repository.format.kinds import Kind
from drkit.targets.base import Planned, made_ready


@pytest.mark.parametrize(
    ("variable", "value"),
    [("DRKIT_EXCHANGE_DIR", "/exchange"), ("DRKIT_EXCHANGE_VOLUME", "exchange"), ("DRKIT_EXCHANGE_DIR", "a/relative")],
)
def test_a_place_for_helpers_that_cannot_be_meant_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    nothing: Any = None  # none of this is asked
    ready = made_ready(nothing, nothing, nothing, [Planned(Kind.VOLUME, "data")], run_id="1")
    with pytest.raises(UsageError, match="DRKIT_EXCHANGE"), ready:
        pytest.fail("it is ready")
