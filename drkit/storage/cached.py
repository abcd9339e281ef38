"""A storage far away, with copies of small immutable objects kept on this host: snapshot records, index, key labels.

The copies are what the storage holds, sealed like there. They are used only for keys that a listing of this process has
shown, in the size that it showed; whatever is wrong with them, the storage is asked instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from drkit.errors import DrkitError
from drkit.storage.base import Data, ObjectInfo, Storage, StoreInfo

log = logging.getLogger(__name__)

PREFIXES = ("snapshots/", "index/", "keys/recipients/")
_BUSY_SECONDS = 5.0
_FETCHES = 8
"""Small objects asked for at once: what they take is the way there and back."""


class CachedStorage(Storage):
    """Everything goes to `inner`, but for gets of whole objects below PREFIXES that were got before."""

    def __init__(self, inner: Storage, path: Path) -> None:
        self._inner = inner
        self._copies = _Copies(path)
        self._listed: dict[str, int] = {}
        self.url = inner.url
        self.parallel_puts = inner.parallel_puts
        self.parallel_gets = inner.parallel_gets
        self.request_size = inner.request_size
        self.locks = inner.locks

    @property
    def create_only(self) -> bool:
        return self._inner.create_only

    @create_only.setter
    def create_only(self, value: bool) -> None:
        self._inner.create_only = value

    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        self._inner.put(key, data, locked=locked)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        size = self._listed.get(key)
        if offset or length is not None or size is None:
            return self._inner.get(key, offset, length)
        body = self._copies.get(key)
        if body is None or len(body) != size:
            body = self._inner.get(key)
            self._copies.put(key, body)
        return body

    def fetch_ahead(self, keys: Sequence[str]) -> None:
        known = self._copies.keys()
        wanted = [key for key in keys if key in self._listed and key not in known]
        with ThreadPoolExecutor(_FETCHES, thread_name_prefix="drkit-fetch") as executor:
            for _ in executor.map(self._try_fetch, wanted):
                pass

    def _try_fetch(self, key: str) -> None:
        with contextlib.suppress(DrkitError):  # who then gets it is told
            self._copies.put(key, self._inner.get(key))

    def stat(self, key: str) -> ObjectInfo:
        return self._inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        listing = self._inner.list(prefix)
        return self._noted(prefix, listing) if prefix in PREFIXES else listing

    def _noted(self, prefix: str, listing: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        there: dict[str, int] = {}
        for info in listing:
            there[info.key] = info.size
            yield info
        self._copies.keep_only(prefix, there)
        for key in [key for key in self._listed if key.startswith(prefix) and key not in there]:
            del self._listed[key]
        self._listed |= there

    def delete(self, key: str) -> None:
        self._inner.delete(key)
        self._listed.pop(key, None)

    def renew_locks(self, prefixes: Sequence[str], needed: Callable[[str], bool]) -> int:
        return self._inner.renew_locks(prefixes, needed)

    def holds_locks(self, key: str) -> bool:
        return self._inner.holds_locks(key)

    def shadowed_objects(self) -> Iterator[tuple[str, str]]:
        return self._inner.shadowed_objects()

    def store_info(self) -> StoreInfo:
        return self._inner.store_info()

    def server_time(self) -> datetime | None:
        return self._inner.server_time()


class _Copies:
    """Objects by key in an SQLite file of mode 0600. It may fail in any way: then there are no copies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)
        # Nothing is lost with the file, so nothing need wait for the disk.
        self._do(lambda database: database.execute("PRAGMA synchronous = OFF"), None)
        self._do(
            lambda database: database.execute(
                "CREATE TABLE IF NOT EXISTS objects (key TEXT PRIMARY KEY, digest BLOB, body BLOB) WITHOUT ROWID"
            ),
            None,
        )

    def get(self, key: str) -> bytes | None:
        rows = self._do(
            lambda database: database.execute("SELECT digest, body FROM objects WHERE key = ?", (key,)).fetchall(), []
        )
        for digest, body in rows:
            if isinstance(body, bytes) and hashlib.sha256(body).digest() == digest:
                return body
        return None

    def put(self, key: str, body: bytes) -> None:
        row = (key, hashlib.sha256(body).digest(), body)
        self._do(lambda database: database.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", row), None)

    def keys(self) -> set[str]:
        rows = self._do(lambda database: database.execute("SELECT key FROM objects").fetchall(), [])
        return {key for (key,) in rows}

    def keep_only(self, prefix: str, keys: Iterable[str]) -> None:
        gone = {key for key in self.keys() if key.startswith(prefix)}.difference(keys)
        rows = [(key,) for key in gone]
        self._do(lambda database: database.executemany("DELETE FROM objects WHERE key = ?", rows), None)

    def _do(self, work: Callable[[sqlite3.Connection], Any], default: Any) -> Any:
        with self._lock:
            if self._database is None:
                return default
            try:
                return work(self._database)
            except sqlite3.OperationalError as error:
                if "locked" in str(error) or "busy" in str(error):  # by another drkit: this once without the copies
                    return default
                self._give_up(error)
            except sqlite3.Error as error:
                self._give_up(error)
        return default

    def _give_up(self, error: Exception) -> None:
        log.info("%s: no copies are kept (%s)", self._path, error)
        if self._database is not None:
            self._database.close()
            self._database = None
            with contextlib.suppress(OSError):  # damaged: the next run makes it anew
                self._path.unlink()
