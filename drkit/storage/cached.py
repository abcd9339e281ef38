"""A distant storage, with copies of small immutable objects kept on this host: snapshot records, index, key labels.

The copies are the sealed bytes that the storage holds. A copy is used only if a listing of this process has shown its
key with its size. Whatever is wrong with the copies, the storage is asked instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from drkit.errors import DrkitError
from drkit.events import LOGGED, Events
from drkit.storage.base import MAX_OBJECT, ObjectInfo, Storage
from drkit.storage.forwarding import ForwardingStorage
from drkit.storage.local.files import make_directories

PREFIXES = ("snapshots/", "index/", "keys/recipients/")
_BUSY_SECONDS = 5.0
_FETCHES = 8
"""Small objects fetched at once: each costs a round trip and little else."""
_SMALL = 8 * 1024 * 1024
"""Bytes up to which an object is fetched ahead: all that are fetched at once wait in memory."""


class CachedStorage(ForwardingStorage):
    """Answers gets of whole objects below PREFIXES from copies where it can."""

    def __init__(self, inner: Storage, path: Path, events: Events = LOGGED) -> None:
        super().__init__(inner)
        self._copies = _Copies(path, events)
        self._listed: dict[str, int] = {}

    def get(self, key: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT) -> bytes:
        size = self._listed.get(key)
        if offset or length is not None or size is None or size > limit:
            return self.inner.get(key, offset, length, limit=limit)
        body = self._copies.get(key, size)
        if body is None:
            body = self.inner.get(key, limit=limit)
            self._copies.put(key, body)
        return body

    def fetch_ahead(self, keys: Sequence[str]) -> None:
        known = self._copies.keys()
        wanted = [key for key in keys if self._listed.get(key, _SMALL + 1) <= _SMALL and key not in known]
        with ThreadPoolExecutor(_FETCHES, thread_name_prefix="drkit-fetch") as executor:
            for _ in executor.map(self._try_fetch, wanted):
                pass

    def _try_fetch(self, key: str) -> None:
        with contextlib.suppress(DrkitError):  # the later get raises it
            self._copies.put(key, self.inner.get(key, limit=_SMALL))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        listing = self.inner.list(prefix)
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
        self.inner.delete(key)
        self._listed.pop(key, None)


class _Copies:
    """Objects by key in an SQLite file of mode 0600. Whatever fails, the result is that there are no copies."""

    def __init__(self, path: Path, events: Events) -> None:
        self._path = path
        self._events = events
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        try:
            make_directories(path.absolute().parent)
            path.touch(mode=0o600)
            self._database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)
        # Losing the file loses nothing, so no write needs to wait for the disk.
        self._do(lambda database: database.execute("PRAGMA synchronous = OFF"), None)
        self._do(
            lambda database: database.execute(
                "CREATE TABLE IF NOT EXISTS objects (key TEXT PRIMARY KEY, digest BLOB, body BLOB) WITHOUT ROWID"
            ),
            None,
        )

    def get(self, key: str, size: int) -> bytes | None:
        """Return the copy of an object of `size` bytes. A row of another size is not even read into memory."""
        query = "SELECT digest, body FROM objects WHERE key = ? AND length(body) = ?"
        rows = self._do(lambda database: database.execute(query, (key, size)).fetchall(), [])
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
                if "locked" in str(error) or "busy" in str(error):  # by another drkit: do without copies this once
                    return default
                self._give_up(error)
            except sqlite3.Error as error:
                self._give_up(error)
        return default

    def _give_up(self, error: Exception) -> None:
        self._events.note(f"{self._path}: no copies are kept ({error})")
        if self._database is not None:
            self._database.close()
            self._database = None
            with contextlib.suppress(OSError):  # damaged: the next run recreates it
                self._path.unlink()
