"""Single-writer mode: for stores that do not decide atomically who creates a key.

In such a store a prune cannot fence a run, and two runs cannot tell which of them created an object. So every writer
opens its session, then looks for other sessions, and gives way to a run that is alive. Two that start together may both
give way, but they never both go on, as long as a listing shows what was written before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from drkit.errors import RepositoryLocked
from drkit.events import LOGGED, Events
from drkit.repository.commit.session import HEARTBEAT_SECONDS, SESSION_PREFIX
from drkit.repository.format.layout import kind_of
from drkit.storage.base import Storage

PATIENCE_SECONDS = 2 * HEARTBEAT_SECONDS + 5
"""A little more than two heartbeats: a session without a new one for so long belongs to a dead run."""
POLL_SECONDS = 5.0


def require_single_writer(
    storage: Storage,
    run_id: str,
    *,
    single_writer: bool,
    events: Events = LOGGED,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> frozenset[str]:
    """Return when no other run works in `storage`; at once unless its repository is in `single_writer` mode.

    The session of `run_id` must be open already. Where another session stands still this waits two minutes, and then
    counts its run as dead. Returns the dead runs. Marks need no waiting: a prune at work has a session. Raises
    RepositoryLocked for a run that is alive.
    """
    if not single_writer:
        return frozenset()
    seen = _others(storage, run_id)
    end = clock() + PATIENCE_SECONDS
    while seen:
        if clock() > end:
            for other in sorted(seen):
                events.warn(f"run {other} left its session behind and shows no sign of life: it counts as dead")
            return frozenset(seen)
        events.note(f"waiting for run {min(seen)} to end, or to turn out dead")
        sleep(POLL_SECONDS)
        now = _others(storage, run_id)
        alive = sorted(run for run, heartbeats in now.items() if heartbeats != seen.get(run))
        if alive:
            raise RepositoryLocked(
                f"run {alive[0]} is at work in {storage.url}, which takes one writer at a time",
                hint="Wait until it has ended, then run the same command again.",
            )
        seen = now
    return frozenset()


def _others(storage: Storage, run_id: str) -> dict[str, set[str]]:
    """The sessions of other runs, each with the names of its heartbeats."""
    runs: dict[str, set[str]] = {}
    for info in storage.list(SESSION_PREFIX):
        if kind_of(info.key) != "session":
            continue
        run, _, heartbeat = info.key.removeprefix(SESSION_PREFIX).partition("/")
        if run != run_id:
            runs.setdefault(run, set()).add(heartbeat)
    return runs
