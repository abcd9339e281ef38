"""A storage that acknowledges a put and does nothing."""

from __future__ import annotations

from drkit.storage.base import Data, Storage
from drkit.storage.forwarding import ForwardingStorage


class Dropping(ForwardingStorage):
    """Acknowledges the `at`-th put below a prefix, counted from 1, and does nothing."""

    def __init__(self, inner: Storage, prefix: str, at: int = 1) -> None:
        super().__init__(inner)
        self.prefix, self.left = prefix, at
        self.dropped = ""

    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        if key.startswith(self.prefix):
            self.left -= 1
            if self.left == 0:
                self.dropped = key
                return
        super().put(key, data, locked=locked)
