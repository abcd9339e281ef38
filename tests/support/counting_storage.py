"""A storage in a dictionary that counts the requests for packs, and the bytes they bring."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from threading import Lock

from drkit.storage.base import MAX_OBJECT
from tests.support.memory_storage import MemoryStorage


class CountingStorage(MemoryStorage):
    """Counts like a store far away, whose requests are few and large. `whole` counts the gets of whole packs."""

    def __init__(self, *, request_size: int) -> None:
        super().__init__()
        self.traits = replace(self.traits, parallel_gets=4, request_size=request_size)
        self._counting = Lock()
        self.reset()

    def reset(self) -> None:
        self.requests = 0
        self.bytes = 0
        self.whole: Counter[str] = Counter()

    def get(self, key: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT) -> bytes:
        body = super().get(key, offset, length, limit=limit)
        if key.startswith("packs/"):
            with self._counting:
                self.requests += 1
                self.bytes += len(body)
                self.whole[key] += length is None
        return body

    @property
    def packs(self) -> dict[str, int]:
        """The packs that are stored, and their sizes."""
        return {key: len(body) for key, body in self.objects.items() if key.startswith("packs/")}
