"""Notes of what takes long."""

from __future__ import annotations

import time

import pytest

from drkit.events import noted_if_slow
from tests.support.events import RecordedEvents


@pytest.mark.parametrize(("seconds", "notes"), [(0.0, []), (0.3, ["waiting"])])
def test_what_takes_long_is_noted_once(seconds: float, notes: list[str]) -> None:
    events = RecordedEvents()
    with noted_if_slow(events, "waiting", 0.1):
        time.sleep(seconds)
    time.sleep(0.2)
    assert events.notes == notes


def test_what_fails_is_not_noted_afterwards() -> None:
    events = RecordedEvents()
    with pytest.raises(ValueError, match="x"), noted_if_slow(events, "waiting", 0.1):
        raise ValueError("x")
    time.sleep(0.2)
    assert events.notes == []
