"""All interleavings of two runs and two prunes: twelve million states, which take a minute or two."""

from __future__ import annotations

from tests.support.protocol_model import Actor, Rules, World, explore, pack


def test_no_interleaving_of_two_runs_and_two_prunes_loses_a_chunk() -> None:
    """The listings of one reading of the index are one step here; in the unit test of the protocol they are not."""
    dead = pack("a", "0")
    start = World(frozenset({dead}), frozenset({("i", frozenset({dead}))}), keys=frozenset({"k"}))
    runs = [Actor("w1", "run", "a"), Actor("w2", "run", "a")]
    prunes = [Actor("g1", "prune"), Actor("g2", "prune")]
    found = explore(start, [*runs, *prunes], Rules(fine=False))
    print(f"two runs and two prunes: {found.states} states, {found.violations} of them violate")
    assert found.states > 10_000_000
    assert found.violations == 0
