"""zstd frames. Each thread has a context: it must not be shared, and making one costs more than a small chunk does."""

from __future__ import annotations

import threading
from enum import StrEnum

import zstandard

from drkit.errors import IntegrityError


class Compression(StrEnum):
    """How hard a run compresses its chunks. Measured in docs/benchmarks.md."""

    FAST = "fast"
    DEFAULT = "default"
    BEST = "best"


_LEVELS = {Compression.FAST: 1, Compression.DEFAULT: 3, Compression.BEST: 9}
_contexts = threading.local()


def compress(data: bytes | memoryview, compression: Compression = Compression.FAST) -> bytes:
    """Return one zstd frame that carries its content size."""
    try:
        compressors: dict[Compression, zstandard.ZstdCompressor] = _contexts.compressors
    except AttributeError:
        compressors = _contexts.compressors = {}
    if compression not in compressors:
        compressors[compression] = zstandard.ZstdCompressor(level=_LEVELS[compression])
    return compressors[compression].compress(data)


def decompress(frame: bytes, *, limit: int) -> bytes:
    """Return the content of `frame`. Raises IntegrityError unless it is one whole frame of at most `limit` bytes."""
    try:
        decompressor: zstandard.ZstdDecompressor = _contexts.decompressor
    except AttributeError:
        decompressor = _contexts.decompressor = zstandard.ZstdDecompressor()
    try:
        size = zstandard.frame_content_size(frame)
        if not 0 <= size <= limit:
            raise IntegrityError(f"compressed data declares {size} bytes, expected at most {limit}")
        return decompressor.decompress(frame, max_output_size=max(size, 1))
    except zstandard.ZstdError as error:
        raise IntegrityError(f"compressed data is damaged: {error}") from error
