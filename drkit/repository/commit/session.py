"""Sessions: which runs work on the repository, and the heartbeats that show them alive."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from drkit.errors import DrkitError, IntegrityError, ObjectNotFound
from drkit.repository.format.layout import kind_of
from drkit.repository.format.limits import SEALED
from drkit.repository.format.objects import ObjectSealer
from drkit.storage.acknowledged import put_seen
from drkit.storage.base import Storage

SESSION_PREFIX = "sessions/"
HEARTBEAT_SECONDS = 60.0
"""Seconds between a run's heartbeats. If two are missing, a prune may fence the run, which then fails: nothing worse.

Every host that uses a repository must use the same interval; see FORMAT.md, section 9."""


class SessionInfo(NamedTuple):
    """`host` is empty and `prune` is false if the object cannot be read."""

    host: str
    prune: bool


class Session:
    """`sessions/<run id>/<n>`: a thread creates the next n at every heartbeat, and deletes the one before."""

    def __init__(self, storage: Storage, sealer: ObjectSealer, run_id: str, *, host: str, prune: bool = False) -> None:
        self._storage = storage
        self._sealer = sealer
        self._run_id = run_id
        self._payload = json.dumps({"run": run_id, "host": host, **({"prune": True} if prune else {})}).encode()
        self._number = 0
        self._there: list[str] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.problem: DrkitError | None = None
        """Why the last heartbeat failed: without heartbeats the run may be fenced. None if it succeeded."""

    def open(self) -> None:
        self._put()
        self._thread = threading.Thread(target=self._beat, name="drkit-session", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the heartbeats and remove the session."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        while self._there:
            self._storage.delete(self._there[-1])
            self._there.pop()

    def abandon(self, error: BaseException) -> None:
        """Close after a failure. If the session cannot be removed, only a note to the failure tells so."""
        try:
            self.close()
        except DrkitError as second:
            error.add_note(f"the session of run {self._run_id} could not be removed either: {second}")

    def _put(self) -> None:
        key = f"{SESSION_PREFIX}{self._run_id}/{self._number}"
        self._there.append(key)  # before the put: after an error the object may exist
        # Seen: a prune that sees no session waits for nobody.
        put_seen(self._storage, key, self._sealer.seal("session", self._run_id.encode(), self._payload))

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            self._number += 1
            try:
                self._put()
                while len(self._there) > 1:
                    self._storage.delete(self._there[0])
                    self._there.pop(0)
            except DrkitError as error:
                self.problem = error  # the next heartbeat tries again; the commit decides whether that was too late
            else:
                self.problem = None


def list_sessions(storage: Storage) -> dict[str, frozenset[int]]:
    """Return the runs that have a session, each with the numbers of its heartbeats: a run is alive while they change.

    The highest alone would not tell: somebody could plant one that no heartbeat of a living run ever reaches.
    """
    sessions: dict[str, frozenset[int]] = {}
    for info in storage.list(SESSION_PREFIX):
        if kind_of(info.key) == "session":
            _, run_id, number = info.key.split("/")
            sessions[run_id] = sessions.get(run_id, frozenset()) | {int(number)}
    return sessions


def session_info(storage: Storage, sealer: ObjectSealer, run_id: str, numbers: Iterable[int]) -> SessionInfo:
    """Tell whose session it is, by any heartbeat that opens. Without one it has no host; callers still wait for it."""
    for number in sorted(numbers):
        with suppress(IntegrityError, ObjectNotFound):
            return get_session(storage, sealer, f"{SESSION_PREFIX}{run_id}/{number}")
    return SessionInfo("", False)


def get_session(storage: Storage, sealer: ObjectSealer, key: str) -> SessionInfo:
    """Read one session object. Raises IntegrityError, ObjectNotFound."""
    run_id = key.split("/")[1]
    body = storage.get(key, limit=SEALED["session"].stored)
    payload = sealer.open("session", run_id.encode(), body, source=key)
    try:
        fields = json.loads(payload)
        return SessionInfo(str(fields.get("host", "")), fields.get("prune") is True)
    except (ValueError, AttributeError):
        raise IntegrityError(f"{key} does not hold a session", object_name=key) from None


def remove_session(storage: Storage, run_id: str) -> None:
    """Delete every heartbeat of a run."""
    for info in list(storage.list(f"{SESSION_PREFIX}{run_id}/")):
        storage.delete(info.key)
