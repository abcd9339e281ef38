"""Trying again what may pass: the only importer of tenacity. It knows nothing of S3.

Waits are random and grow, so that many clients that failed together do not return together. Both the number of attempts
and the time are bounded, on the monotonic clock: whoever waits for us is told in the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from drkit.errors import DrkitError

log = logging.getLogger(__name__)

TOLD = 2
"""The attempt whose failure is told to whoever waits for us; the first one passes unseen, as most failures do."""

T = TypeVar("T")


class TransientError(Exception):
    """A failure that may pass. `error` is what to raise when it does not.

    `refused`: nobody listens there at all. Before anything was ever answered that is rather a mistake than a pause.
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
    """Attempts where every connection was refused from the first one on: some seconds."""
    total: float = 300
    first_wait: float = 0.25
    longest_wait: float = 20
    connect: float = 20
    read: float = 60
    slowest: int = 16 * 1024


class Deadline:
    """When one answer of `size` bytes has taken too long."""

    def __init__(self, patience: RetryPolicy, size: int) -> None:
        self._end = time.monotonic() + patience.read + size / patience.slowest

    @property
    def passed(self) -> bool:
        return time.monotonic() > self._end


class Retrier:
    """Runs actions until they end well, or patience does. `retries` counts, over all threads, what was tried again."""

    def __init__(self, patience: RetryPolicy) -> None:
        self._patience = patience
        self._answered = False
        """Whether anybody was ever there."""
        self.retries = 0

    def run(self, what: str, action: Callable[[int], T]) -> T:
        """Call `action` with the number of earlier attempts until it raises no TransientError.

        Raises the error that the last TransientError carried; whatever else the action raises goes through at once.
        """
        attempts = 0
        patience = self._patience

        def attempt() -> T:
            nonlocal attempts
            attempts += 1
            try:
                result = action(attempts - 1)
            except TransientError as failure:
                self._answered |= not failure.refused
                raise
            self._answered = True
            return result

        too_late = tenacity.stop_before_delay(patience.total)

        def given_up(state: tenacity.RetryCallState) -> bool:
            most = patience.attempts if self._answered else min(patience.refused, patience.attempts)
            return state.attempt_number >= most or too_late(state)

        def note(state: tenacity.RetryCallState) -> None:
            self.retries += 1
            if state.outcome is not None:
                number = state.attempt_number
                level = logging.DEBUG if number < TOLD else logging.WARNING if number == TOLD else logging.INFO
                reason = state.outcome.exception()
                log.log(level, "%s: attempt %d of %d failed: %s; trying again", what, number, patience.attempts, reason)

        started = time.monotonic()
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=given_up,
            wait=tenacity.wait_random_exponential(multiplier=patience.first_wait, max=patience.longest_wait),
            before_sleep=note,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except TransientError as failure:
            error = failure.error
            seconds = time.monotonic() - started
            error.message += f" (given up after {attempts} attempts in {seconds:.0f} s)"
            error.args = (error.message,)
            raise error from failure.__cause__
