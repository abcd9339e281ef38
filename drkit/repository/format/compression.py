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
MAX_WINDOW = 8 * 1024 * 1024
"""Bytes of the window that a reader must have for a frame with more content: what every zstd decoder has to offer, and
all that levels up to 19 use."""
_MAGIC = b"\x28\xb5\x2f\xfd"
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
    """Return the content of `frame`, which states its size.

    Raises IntegrityError unless it is one whole frame of at most `limit` bytes of content, with nothing before it or
    behind it, without a dictionary, and with a window no larger than MAX_WINDOW or its content.
    """
    try:
        decompressor: zstandard.ZstdDecompressor = _contexts.decompressor
    except AttributeError:
        decompressor = _contexts.decompressor = zstandard.ZstdDecompressor()
    try:
        if frame[: len(_MAGIC)] != _MAGIC:  # such as a skippable frame
            raise IntegrityError("compressed data does not begin with a zstd frame")
        size = zstandard.frame_content_size(frame)
        if not 0 <= size <= limit:
            raise IntegrityError(f"compressed data declares {size} bytes, expected at most {limit}")
        header = zstandard.get_frame_parameters(frame)
        if header.dict_id or header.window_size > max(size, MAX_WINDOW):
            raise IntegrityError("compressed data needs a dictionary, or a larger window than readers have")
        content = decompressor.decompress(frame, max_output_size=max(size, 1), allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"compressed data is damaged: {error}") from error
    if len(content) != size:
        raise IntegrityError(f"compressed data holds {len(content)} bytes, and declares {size}")
    return content
