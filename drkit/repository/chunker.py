"""Content-defined chunking with FastCDC: the same bytes are cut at the same places wherever they stand in a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ChunkerParameters:
    """Sizes in bytes. They decide only how well data deduplicates: a reader never needs them."""

    minimum: int
    average: int
    maximum: int


DATA_CHUNKS = ChunkerParameters(256 * 1024, 1024 * 1024, 4 * 1024 * 1024)
# Trees change in many places a little: smaller chunks keep the unchanged stretches shared.
TREE_CHUNKS = ChunkerParameters(64 * 1024, 256 * 1024, 1024 * 1024)


def cut_lengths(data: memoryview, parameters: ChunkerParameters, *, final: bool) -> Iterator[int]:
    """Yield the lengths of the chunks at the start of `data`.

    Without `final`, stops where less than one maximum chunk is left: a cut there could fall elsewhere once more bytes
    are known. The caller puts the rest in front of the next bytes.
    """
    from fastcdc import fastcdc  # at first use: it takes its time to load, and an unchanged backup cuts nothing

    left = len(data)
    chunks = fastcdc(data, parameters.minimum, parameters.average, parameters.maximum)
    while left >= parameters.maximum or (final and left):
        length = next(chunks).length
        yield length
        left -= length
