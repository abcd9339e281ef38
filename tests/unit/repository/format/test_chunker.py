"""Where streams are cut: as FORMAT.md says, which a second implementation shows that was written from it."""

from __future__ import annotations

import random

import pytest

from drkit.repository.format.chunker import DATA_CHUNKS, TREE_CHUNKS, ChunkerParameters, cut_lengths
from tests.support.independent_chunker import cut


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [DATA_CHUNKS, TREE_CHUNKS])
def test_streams_are_cut_where_the_format_says(parameters: ChunkerParameters) -> None:
    seed = random.randrange(2**32)
    print(f"seed: {seed}")
    rng = random.Random(seed)
    sizes = [0, 1, parameters.minimum - 1, parameters.minimum, parameters.minimum + 1, rng.randrange(1_000_000)]
    streams = [rng.randbytes(size) for size in sizes]
    streams += [bytes(2_000_001), rng.randbytes(4_000_001), rng.randbytes(300) * 10_000]
    for data in streams:
        expected = list(cut(data, minimum=parameters.minimum, average=parameters.average, maximum=parameters.maximum))
        assert list(cut_lengths(memoryview(data), parameters, final=True)) == expected
        assert sum(expected) == len(data)
