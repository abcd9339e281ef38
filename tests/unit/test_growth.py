"""benchmarks/growth.py: what a backup a day leaves behind, and how many requests it takes, by count."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.growth import Growth, grow, render
from drkit.repository.prune.plan import MANY_SMALL
from tests.support.memory_storage import MemoryStorage


@pytest.mark.slow
def test_what_sixty_snapshots_of_a_small_change_leave(rng: random.Random, tmp_path: Path) -> None:
    growth = Growth(MemoryStorage(), tmp_path / "cache", rng, files=600, size=1024, changed=5)
    first, early, late = grow(growth, 60, prune_every=10, at=(1, 15, 60))

    assert first.objects == {"config": 1, "snapshots": 1, "packs": 2, "index": 1, "keys": 2, "labels": 2}
    assert (early.objects["snapshots"], late.objects["snapshots"]) == (15, 60)
    assert late.objects["keys"] == late.objects["labels"] == 61  # the meta key's, and one for each run
    for row in (early, late):  # each run adds two packs, and an index object that lists them
        assert row.objects["packs"] <= 2 * (MANY_SMALL + 10)
        assert row.objects["index"] <= MANY_SMALL + 10
        assert row.objects.keys() <= first.objects.keys(), "sessions and marks are gone"
    # A run lists what there is, and stores a session, a key with its label, two packs, an index object and a record.
    assert late.costs["run"][0] <= early.costs["run"][0] + 10
    assert late.costs["snapshots"][0] == early.costs["snapshots"][0] == first.costs["snapshots"][0]
    growth.check()
    assert render([first, early, late]).count("\n") == 4
