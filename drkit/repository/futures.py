"""Waiting for what other threads do."""

from __future__ import annotations

from concurrent.futures import Future
from copy import copy
from typing import TypeVar

T = TypeVar("T")


def result_of(future: Future[T]) -> T:
    """Wait for a result that many may ask for. An error is raised as a copy of its own to each of them.

    An exception keeps the frames that it went through, with all that they hold. One that is raised a thousand times
    would keep a thousand of them: gigabytes of buffers, where many files need one chunk that is missing.
    """
    error = future.exception()
    if error is None:
        return future.result()
    raise copy(error) from None
