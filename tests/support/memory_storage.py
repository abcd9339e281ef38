"""A storage in a dictionary, open to tampering."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from drkit.errors import IntegrityError, ObjectExists, ObjectNotFound
from drkit.storage.base import (
    MAX_OBJECT,
    Data,
    ObjectInfo,
    Storage,
    Traits,
    require_size,
    require_storable,
    validate_key,
    validate_prefix,
    validate_range,
)


class MemoryStorage(Storage):
    """A test may read and change `objects` as it likes, to damage what is stored."""

    def __init__(self, traits: Traits = Traits()) -> None:  # noqa: B008 (frozen)
        self.url = "memory:"
        self.traits = traits
        self.objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        validate_key(key)
        require_storable(self.url, key, data)
        with self._lock:
            if key in self.objects:
                raise ObjectExists(f"object {key} exists already in {self.url}")
            self.objects[key] = bytes(data)

    def get(self, key: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT) -> bytes:
        validate_range(key, offset, length, limit)
        size = self.stat(key).size
        end = max(offset, size) if length is None else offset + length
        if end > size:
            raise IntegrityError(f"object {key} is shorter than {end} bytes", object_name=key)
        require_size(key, end - offset, limit)
        return self.objects[key][offset:end]

    def stat(self, key: str) -> ObjectInfo:
        validate_key(key)
        try:
            return ObjectInfo(key, len(self.objects[key]))
        except KeyError:
            raise ObjectNotFound(f"no object {key} in {self.url}") from None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        validate_prefix(prefix)
        with self._lock:
            return iter([ObjectInfo(k, len(v)) for k, v in sorted(self.objects.items()) if k.startswith(prefix)])

    def delete(self, key: str) -> None:
        validate_key(key)
        with self._lock:
            self.objects.pop(key, None)
