"""Helpers started ahead: which is started when, and that none is left behind."""

from __future__ import annotations

import threading
from typing import cast

import pytest

from drkit.engine.helper.process import HelperProcess
from drkit.errors import CaptureFailed
from drkit.pipeline.standby import StandBy


class FakeHelper:
    def __init__(self, volume: str) -> None:
        self.volume = volume
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True


class Starter:
    """Starts fake helpers, but not those of the volumes in `broken`."""

    def __init__(self, *broken: str) -> None:
        self.broken = broken
        self.helpers: dict[str, FakeHelper] = {}
        self.started = threading.Semaphore(0)

    def __call__(self, volume: str) -> HelperProcess:
        if volume in self.broken:
            raise CaptureFailed(f"volume {volume}: no such volume")
        helper = self.helpers[volume] = FakeHelper(volume)
        self.started.release()
        return cast(HelperProcess, helper)


def take(standby: StandBy, volume: str) -> FakeHelper:
    return cast(FakeHelper, standby.take(volume))


def test_each_helper_is_started_while_the_one_before_works() -> None:
    start = Starter()
    with StandBy(start, ["a", "b", "c"]) as standby:
        assert start.started.acquire(timeout=5)
        assert list(start.helpers) == ["a"]  # one ahead, not all
        for volume, ahead in (("a", "b"), ("b", "c"), ("c", None)):
            helper = take(standby, volume)
            assert (helper.volume, helper.written) == (volume, b"\n")
            assert ahead is None or start.started.acquire(timeout=5)
            assert list(start.helpers)[-1] == (ahead or volume)
    assert not any(helper.closed for helper in start.helpers.values())  # they belong to whoever took them


def test_what_was_left_out_or_not_taken_is_ended() -> None:
    start = Starter()
    with StandBy(start, ["a", "b", "c", "d"]) as standby:
        take(standby, "c")
    assert {volume: helper.closed for volume, helper in start.helpers.items()} == {
        "a": True,
        "b": True,
        "c": False,
        "d": True,
    }
    assert start.helpers["a"].written == b""


def test_a_helper_that_does_not_start_is_told_to_who_takes_it() -> None:
    start = Starter("b", "d")
    with StandBy(start, ["a", "b", "c", "d"]) as standby:
        take(standby, "a")
        with pytest.raises(CaptureFailed, match="volume b"):
            standby.take("b")
        take(standby, "c")
    assert list(start.helpers) == ["a", "c"]


def test_a_helper_that_cannot_be_told_to_begin_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: FakeHelper, data: bytes) -> None:
        raise CaptureFailed("it has died")

    monkeypatch.setattr(FakeHelper, "write", refuse)
    start = Starter()
    with StandBy(start, ["a"]) as standby, pytest.raises(CaptureFailed, match="died"):
        standby.take("a")
    assert start.helpers["a"].closed


def test_there_are_no_other_volumes() -> None:
    with StandBy(Starter(), ["a"]) as standby:
        take(standby, "a")
        with pytest.raises(ValueError, match="a is not among those left"):
            standby.take("a")
