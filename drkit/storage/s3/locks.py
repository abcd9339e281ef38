"""Object locks on the versions of objects: requested with every write, read back, and renewed in time.

A server may accept the headers without knowing them, so the lock is read back from the version itself. All dates come
from the server's clock: a host with a wrong clock locks nothing for too short a time, and nothing for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from drkit.errors import ObjectNotFound, StorageUnavailable
from drkit.storage.s3.listing import Version
from drkit.storage.s3.settings import LOCK_HINT, ObjectLock

_PARALLEL = 8
_BATCH = 1000
_ROUNDING = timedelta(seconds=2)
"""Servers store whole seconds."""


class Locks:
    """`ask` sends one request about the bucket, and again while that may help. `now` is the server's time."""

    def __init__(self, ask: Callable[..., Any], lock: ObjectLock, now: Callable[[], datetime]) -> None:
        self._ask = ask
        self._lock = lock
        self._now = now

    def until(self, key: str) -> datetime | None:
        """Return until when an object that is written now must be locked. None: its key gets no lock."""
        return self._now() + self._lock.period if key.startswith(self._lock.prefixes) else None

    def options(self, until: datetime, mode: str = "") -> dict[str, Any]:
        """Return the parameters of a PUT that lock what it writes."""
        return {"ObjectLockMode": (mode or self._lock.mode).upper(), "ObjectLockRetainUntilDate": until}

    def require(self, key: str, version: str | None, until: datetime) -> None:
        """Raise StorageUnavailable unless this version, or without one the newest, is locked as requested."""
        mode, found = self._retention(key, version)
        if mode not in (self._lock.mode.upper(), "COMPLIANCE") or found is None or found < until - _ROUNDING:
            held = f"locked until {found:%Y-%m-%d %H:%M:%S}" if found else "not locked"
            raise StorageUnavailable(
                f"object {key} should be locked ({self._lock.mode}) until {until:%Y-%m-%d %H:%M:%S}, but is {held}: "
                "this bucket does not keep locks",
                hint=LOCK_HINT,
            )

    def renew(self, versions: Iterable[Version], needed: Callable[[str], bool]) -> int:
        """Renew, for the whole period, the lock of every version of a needed object if less than half of it is left.

        A locked version below a newer one is renewed too: it may be the one that drkit wrote. A version keeps its mode,
        as changing the mode needs another right than renewing. Returns how many were renewed.
        """
        wanted = (version for version in versions if not version.marker and needed(version.key))
        renewed = 0
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="drkit-lock") as pool:
            while batch := list(islice(wanted, _BATCH)):
                renewed += sum(pool.map(self._renew, batch))
        return renewed

    def _renew(self, version: Version) -> bool:
        now = self._now()
        try:
            mode, until = self._retention(version.key, version.id)
            if (until is not None and until - now >= self._lock.period / 2) or (mode is None and not version.latest):
                return False
            retention = {"Mode": mode or self._lock.mode.upper(), "RetainUntilDate": now + self._lock.period}
            self._ask("put_object_retention", "lock", version.key, VersionId=version.id, Retention=retention)
            self._require_renewed(version, now)
        except ObjectNotFound:  # a prune removed it since the listing
            return False
        return True

    def _require_renewed(self, version: Version, now: datetime) -> None:
        _, until = self._retention(version.key, version.id)
        if until is None or until < now + self._lock.period - _ROUNDING:
            raise StorageUnavailable(f"the lock of object {version.key} was renewed without effect", hint=LOCK_HINT)

    def _retention(self, key: str, version: str | None) -> tuple[str | None, datetime | None]:
        options = {"VersionId": version} if version else {}
        answer = self._ask("head_object", "look at", key, **options)
        return answer.get("ObjectLockMode"), answer.get("ObjectLockRetainUntilDate")
