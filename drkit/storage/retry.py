"""Trying again after failures that may pass: the only importer of tenacity. It knows nothing of S3.

Waits are random and grow, so that many clients that failed together do not return together. Both the number of attempts
and the time, on the monotonic clock, are bounded: the caller gets an error in the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import tenacity

from drkit.errors import DrkitError
from drkit.events import LOGGED, Events

T = TypeVar("T")


class TransientError(Exception):
    """A failure that may pass. `error` is raised in its place if it does not.

    `refused`: nobody listens there at all. Before anything was ever answered, that is more likely a mistake than an
    outage.
    """

    def __init__(self, error: DrkitError, *, refused: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.refused = refused


@dataclass(frozen=True)
class RetryPolicy:
    """How long a storage is waited for. All times in seconds.

    `connect` also bounds the sending of each block of a request, `read` each wait for bytes of an answer. An answer
    slower than `slowest` bytes a second, after `read` seconds of grace, is given up. No attempt begins after `total`.
    """

    attempts: int = 12
    refused: int = 5
    """Attempts if every connection so far was refused: that takes some seconds."""
    total: float = 300
    first_wait: float = 0.25
    longest_wait: float = 20
    connect: float = 20
    read: float = 60
    slowest: int = 16 * 1024


class Deadline:
    """The time by which an answer of `size` bytes must have arrived."""

    def __init__(self, policy: RetryPolicy, size: int) -> None:
        self._end = time.monotonic() + policy.read + size / policy.slowest

    @property
    def passed(self) -> bool:
        return time.monotonic() > self._end


class Retrier:
    """Runs the actions of one storage, from any thread, until they succeed or the policy's limits are reached."""

    def __init__(self, policy: RetryPolicy, events: Events = LOGGED) -> None:
        self.policy = policy
        self.retries = 0
        """How many attempts so far were not the first."""
        self._events = events
        self._answered = False
        """Whether the other side was ever there."""

    def run(self, what: str, action: Callable[[], T]) -> T:
        """Call `action` until it raises no TransientError.

        Raises the error that the last TransientError carried. Whatever else the action raises goes through at once.
        """
        policy = self.policy
        too_late = tenacity.stop_before_delay(policy.total)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=lambda state: self._tried_enough(state) or too_late(state),
            wait=tenacity.wait_random_exponential(multiplier=policy.first_wait, max=policy.longest_wait),
            before_sleep=lambda state: self._report(what, state),
            retry_error_callback=_give_up,
        )
        result = retrying(action)
        self._answered = True
        return result

    def _tried_enough(self, state: tenacity.RetryCallState) -> bool:
        self._answered |= not _failure(state).refused
        attempts = self.policy.attempts if self._answered else min(self.policy.refused, self.policy.attempts)
        return state.attempt_number >= attempts

    def _report(self, what: str, state: tenacity.RetryCallState) -> None:
        """Warn from the second failed attempt: a single failure is common."""
        self.retries += 1
        number = state.attempt_number
        tell = {1: self._events.detail, 2: self._events.warn}.get(number, self._events.note)
        tell(f"{what}: attempt {number} of {self.policy.attempts} failed: {_failure(state)}; trying again")


def _failure(state: tenacity.RetryCallState) -> TransientError:
    failure = state.outcome.exception() if state.outcome else None
    assert isinstance(failure, TransientError)
    return failure


def _give_up(state: tenacity.RetryCallState) -> NoReturn:
    failure = _failure(state)
    error = failure.error
    error.message += f" (given up after {state.attempt_number} attempts in {state.seconds_since_start:.0f} s)"
    error.args = (error.message,)
    raise error from failure.__cause__
