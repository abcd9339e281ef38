"""Disk states as a power cut would leave them, while backups and prunes run. scripts/campaign takes more of them."""

from __future__ import annotations

from pathlib import Path

from tests.support.power_cut import power_cuts


def test_no_acknowledged_snapshot_is_lost_by_a_power_cut(tmp_path: Path, seed: int) -> None:
    result = power_cuts(tmp_path, 12, str(seed))
    print(f"seed {seed}: {result}")
    assert result.violations == []
    assert result.states == 12
    assert result.acknowledged > 12
