"""Real processes on one directory or bucket: two that back up or copy, two that prune. scripts/campaign: many times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.copy_race import race_copies
from tests.support.race import race
from tests.support.s3 import S3Server, bucket, credentials


def test_two_backups_and_two_prunes_at_once(tmp_path: Path, seed: int) -> None:
    outcome = race(str(tmp_path / "repository"), 50, str(seed))
    print(f"seed {seed}: {outcome}")
    assert outcome.violations == []
    assert outcome.rounds == 50
    assert outcome.committed > 50
    assert outcome.deleted > 50
    assert outcome.moved > 0


def test_two_copies_and_two_prunes_of_the_mirror_at_once(tmp_path: Path, seed: int) -> None:
    outcome = race_copies(str(tmp_path), 15, str(seed))
    print(f"seed {seed}: {outcome}")
    assert outcome.violations == []
    assert outcome.committed > 15
    assert outcome.deleted > 0


def test_two_backups_and_two_prunes_at_once_in_a_bucket(
    s3_server: S3Server, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRKIT_ENDPOINT", s3_server.http)
    with credentials(s3_server.access_key, s3_server.secret_key), bucket(s3_server.client()) as name:
        outcome = race(f"s3://{name}/race", 3, str(seed))
    print(f"seed {seed}: {outcome}")
    assert outcome.violations == []
    assert outcome.rounds == 3
    assert outcome.committed > 0
