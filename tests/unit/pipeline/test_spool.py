"""Records come back as they went in, from memory or from a file, and in order."""

from __future__ import annotations

import random

import pytest

from drkit.pipeline import spool as module
from drkit.pipeline.spool import Spool


@pytest.mark.parametrize("in_memory", [1, 10_000, 32 << 20])
def test_records_come_back_in_order(rng: random.Random, monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    monkeypatch.setattr(module, "_IN_MEMORY", in_memory)
    records = [(number, rng.randbytes(rng.choice([0, 1, 200, 5000])), rng.randrange(1 << 50)) for number in range(2000)]
    with Spool() as spool:
        for record in records:
            spool.add(*record)
        assert list(spool) == records


def test_nothing_was_added() -> None:
    with Spool() as spool:
        assert list(spool) == []
