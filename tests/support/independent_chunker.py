"""The chunker as section 5 of drkit/repository/FORMAT.md describes it, written from that text alone. Slow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

GEAR = [int.from_bytes(hashlib.md5(bytes([value]) * 64, usedforsecurity=False).digest()[:8]) for value in range(256)]
MASKS = {  # average: (before it, from it on)
    1 << 20: (0x0000D91767537000, 0x0000D91707537000),
    1 << 18: (0x0000D91707537000, 0x0000D90703537000),
}


def cut(data: bytes, *, minimum: int, average: int, maximum: int) -> Iterator[int]:
    """Yield the lengths of all chunks of a stream."""
    strict, loose = MASKS[average]
    while data:
        length = _first(data[:maximum], minimum, average, strict, loose)
        yield length
        data = data[length:]


def _first(data: bytes, minimum: int, average: int, strict: int, loose: int) -> int:
    value = 0
    for at in range(minimum, len(data) - len(data) % 2):
        value = (2 * value + GEAR[data[at]]) % 2**64
        if not value & (strict if at < average - average % 2 else loose):
            return at
    return len(data)
