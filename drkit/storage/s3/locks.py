"""Retention locks on the versions of objects: asked for with every write, then looked at, and renewed in time.

A server that echoes the headers may still not know them, so what was asked for is read back from the version itself.
Dates are told by the server's clock alone: a host whose clock is wrong locks neither too short nor for ever.
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
"""Servers keep whole seconds."""


class Locks:
    """`ask` sends one request of the bucket, tried again while that may help; `now` is the server's time."""

    def __init__(self, ask: Callable[..., Any], lock: ObjectLock, now: Callable[[], datetime]) -> None:
        self._ask = ask
        self._lock = lock
        self._now = now

    def until(self, key: str) -> datetime | None:
        """To when an object that is written now is to be locked; None for one that passes anyhow."""
        return self._now() + self._lock.period if key.startswith(self._lock.prefixes) else None

    def options(self, until: datetime, mode: str = "") -> dict[str, Any]:
        """The parameters of a PUT that lock what it writes."""
        return {"ObjectLockMode": (mode or self._lock.mode).upper(), "ObjectLockRetainUntilDate": until}

    def require(self, key: str, version: str | None, until: datetime) -> None:
        """Raise StorageUnavailable unless this version, else the newest, is locked as it was asked for."""
        mode, found = self._retention(key, version)
        if mode not in (self._lock.mode.upper(), "COMPLIANCE") or found is None or found < until - _ROUNDING:
            held = f"locked until {found:%Y-%m-%d %H:%M:%S}" if found else "not locked"
            raise StorageUnavailable(
                f"object {key} was to be locked ({self._lock.mode}) until {until:%Y-%m-%d %H:%M:%S}, and is {held}: "
                "this bucket does not keep locks",
                hint=LOCK_HINT,
            )

    def renew(self, versions: Iterable[Version], needed: Callable[[str], bool]) -> int:
        """Lock every needed version, of whose period less than half is left, for the whole period again.

        A version that lies under another one is renewed too where it is locked: it may be the one that drkit wrote.
        Returns how many were. The mode of a version stays: to change it is another right than the one to prolong.
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
            raise StorageUnavailable(f"the lock of object {version.key} was renewed, and is as it was", hint=LOCK_HINT)

    def _retention(self, key: str, version: str | None) -> tuple[str | None, datetime | None]:
        options = {"VersionId": version} if version else {}
        answer = self._ask("head_object", "look at", key, **options)
        return answer.get("ObjectLockMode"), answer.get("ObjectLockRetainUntilDate")
