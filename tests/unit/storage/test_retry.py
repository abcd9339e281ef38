"""Trying again within limits, and letting no more bytes pass a second than asked for."""

from __future__ import annotations

import logging
import time

import pytest

from drkit.errors import AccessDenied, StorageUnavailable
from drkit.events import Collected, Warned
from drkit.storage.retry import Deadline, Retrier, RetryPolicy, TransientError
from drkit.storage.s3.throttle import Throttle, ThrottledBody

QUICK = RetryPolicy(attempts=5, total=30, first_wait=0.001, longest_wait=0.002)


class Failing:
    """An action that fails some times before it succeeds."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise TransientError(StorageUnavailable("it is busy", hint="Wait."))
        return "done"


@pytest.mark.parametrize("times", [0, 1, 4])
def test_what_may_pass_is_tried_again(times: int) -> None:
    retrier = Retrier(QUICK)
    action = Failing(times)
    assert retrier.run("test", action) == "done"
    assert action.calls == times + 1
    assert retrier.retries == times


def test_what_does_not_pass_raises_its_error_and_says_how_often_it_was_tried() -> None:
    retrier = Retrier(QUICK)
    action = Failing(99)
    with pytest.raises(StorageUnavailable, match=r"it is busy \(given up after 5 attempts in 0 s\)") as caught:
        retrier.run("test", action)
    assert action.calls == 5
    assert retrier.retries == 4
    assert caught.value.hint == "Wait."
    assert str(caught.value) == caught.value.message


def test_the_cause_of_the_last_failure_is_kept() -> None:
    cause = OSError("reset")

    def action() -> None:
        raise TransientError(StorageUnavailable("it is busy")) from cause

    with pytest.raises(StorageUnavailable) as caught:
        Retrier(QUICK).run("test", action)
    assert caught.value.__cause__ is cause


def test_where_nobody_listens_it_gives_up_sooner_until_somebody_has_answered() -> None:
    events = Collected()
    retrier = Retrier(RetryPolicy(attempts=9, refused=3, first_wait=0.001, longest_wait=0.002), events)

    def refused() -> None:
        raise TransientError(StorageUnavailable("nobody is there"), refused=True)

    with pytest.raises(StorageUnavailable, match="given up after 3 attempts"):
        retrier.run("test", refused)
    assert events.warnings == [Warned("test: attempt 2 of 9 failed: nobody is there; trying again")]
    assert retrier.run("test", lambda: "done") == "done"
    with pytest.raises(StorageUnavailable, match="given up after 9 attempts"):
        retrier.run("test", refused)


def test_time_is_a_limit_too() -> None:
    retrier = Retrier(RetryPolicy(attempts=10**6, total=0.2, first_wait=0.01, longest_wait=0.02))
    action = Failing(10**6)
    with pytest.raises(StorageUnavailable, match="given up"):
        retrier.run("test", action)
    assert 1 < action.calls < 1000


def test_another_error_is_not_tried_again() -> None:
    calls = 0

    def action() -> None:
        nonlocal calls
        calls += 1
        raise AccessDenied("no")

    with pytest.raises(AccessDenied, match=r"^no$"):
        Retrier(QUICK).run("test", action)
    assert calls == 1


def test_a_single_failure_is_common_and_the_second_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Where nobody gave events, they are in the log."""
    caplog.set_level(logging.DEBUG)
    Retrier(QUICK).run("get config", Failing(4))
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (level, f"get config: attempt {number} of 5 failed: it is busy; trying again")
        for number, level in enumerate([logging.DEBUG, logging.WARNING, logging.INFO, logging.INFO], 1)
    ]


def test_a_deadline_grows_with_the_size() -> None:
    policy = RetryPolicy(read=0.01, slowest=1000)
    late, early = Deadline(policy, 10), Deadline(policy, 10**6)
    time.sleep(0.05)
    assert late.passed
    assert not early.passed


def test_a_throttle_makes_up_for_what_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    throttle = Throttle(1000)
    for _ in range(50):
        throttle.pass_bytes(100)
    assert now == pytest.approx(1005)
    now += 100  # a pause saves up one second, not a hundred
    for _ in range(50):
        throttle.pass_bytes(100)
    assert now == pytest.approx(1109)


def test_a_body_is_sent_from_where_it_was_sought() -> None:
    body = ThrottledBody(memoryview(b"0123456789"), None)
    assert body.read(4) == b"0123456789", "blocks are large"
    assert body.tell() == 10
    assert body.seek(0, 2) == 10
    assert body.read() == b""
    assert body.seek(8) == 8
    assert body.read(100) == b"89"
    assert body.seek(-5, 1) == 5
    assert body.read(-1) == b"56789"
