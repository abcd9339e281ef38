"""Single-writer mode: for stores that do not decide atomically who creates a key.

There a prune cannot fence a run, and two runs cannot tell which of them created an object. So whoever writes shows
his session, then looks for others, and gives way to any that is alive. Both may give way when they start together;
never do both go on, as long as a listing shows what was written before it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from drkit.errors import RepositoryLocked
from drkit.repository.commit.session import HEARTBEAT_SECONDS, SESSION_PREFIX
from drkit.storage.base import Storage

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 2 * HEARTBEAT_SECONDS + 5
"""A little more than two intervals between a run's signs of life: one that gave none is dead."""
POLL_SECONDS = 5.0


def require_sole_writer(
    storage: Storage,
    run_id: str,
    *,
    single_writer: bool,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> frozenset[str]:
    """Return when no other run works in `storage`; at once unless its repository is in `single_writer` mode.

    The session of `run_id` must be there already. A session left by a dead run is waited for, two minutes; those that
    were found dead are returned. A mark needs no waiting: the prune that works on it has a session. Raises
    RepositoryLocked.
    """
    if not single_writer:
        return frozenset()
    seen = _others(storage, run_id)
    end = clock() + PATIENCE_SECONDS
    while seen:
        if clock() > end:
            for other in sorted(seen):
                log.warning("run %s left its session and gives no sign of life: it is passed over", other)
            return frozenset(seen)
        log.info("waiting for run %s to end, or to be found dead", min(seen))
        sleep(POLL_SECONDS)
        now = _others(storage, run_id)
        alive = sorted(run for run, signs in now.items() if signs != seen.get(run))
        if alive:
            raise RepositoryLocked(
                f"run {alive[0]} is at work in {storage.url}, which takes one writer at a time",
                hint="Wait for its end, then run the same again.",
            )
        seen = now
    return frozenset()


def _others(storage: Storage, run_id: str) -> dict[str, set[str]]:
    """The sessions of other runs, each with the names of its signs of life."""
    runs: dict[str, set[str]] = {}
    for info in storage.list(SESSION_PREFIX):
        run, _, sign = info.key.removeprefix(SESSION_PREFIX).partition("/")
        if run != run_id:
            runs.setdefault(run, set()).add(sign)
    return runs
