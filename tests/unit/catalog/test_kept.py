"""Which snapshots' locks are renewed: by rules that stand in records, for hosts that cannot read a policy's text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drkit.catalog.kept import still_kept
from drkit.errors import PolicyError
from drkit.policy import Retention, parse_policy
from drkit.repository.format.record import decode_snapshot, encode_snapshot
from drkit.repository.format.snapshot import Snapshot, Target, format_time

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
HEAD = (
    "version: 1\nname: shop\nrepository: {url: /r, recipients_file: r, identity_file: i}\n"
    "protect: {volumes: [{name: data}]}\n"
)


def nights(count: int, **fields: Any) -> list[Snapshot]:
    """As they are read back from their records, oldest first; `fields` are those of the newest."""
    made = []
    for age in reversed(range(count)):
        time = format_time(NOW - timedelta(days=age))
        snapshot = Snapshot(f"night-{age}", time, "web", "shop", "ok", [Target("volume", "v")])
        if not age:
            for name, value in fields.items():
                setattr(snapshot, name, value)
        read = decode_snapshot(encode_snapshot(snapshot), source="x")
        assert read is not None
        made.append(read)
    return made


def kept(snapshots: list[Snapshot]) -> list[str]:
    return sorted(still_kept(snapshots, None, "elsewhere", NOW))


def test_the_rules_of_a_host_that_is_not_ours_stand_in_its_newest_record() -> None:
    rules = parse_policy(f"{HEAD}retention: {{keep_last: 2}}\n", Path("p.yaml")).retention
    assert rules is not None
    assert kept(nights(5, retention=rules.recorded())) == ["night-0", "night-1"]
    assert kept(nights(5, retention={"keep_within": "70h"})) == ["night-0", "night-1", "night-2"]


def test_records_of_earlier_versions_have_the_policy_itself() -> None:
    assert kept(nights(5, policy_text=f"{HEAD}retention: {{keep_last: 3}}\n")) == ["night-0", "night-1", "night-2"]
    assert len(kept(nights(5, policy_text=HEAD))) == 5
    assert len(kept(nights(5, policy_text="no: policy"))) == 5


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"keep_last": "2"},
        {"keep_last": -1},
        {"keep_last": 0},
        {"keep_last": 1, "keep_lunar": 2},
        {"keep_last": 1, "keep_within": 5},
        {"keep_last": 1, "timezone": "Mars/Olympus"},
        {"keep_last": 1, "keep_within": ["1d"]},
    ],
)
def test_rules_that_cannot_be_read_keep_all(odd: dict[str, Any]) -> None:
    assert len(kept(nights(5, retention=odd))) == 5


def test_a_policy_of_ours_counts_and_not_what_a_record_says() -> None:
    policy = parse_policy(f"{HEAD}retention: {{keep_last: 1}}\n", Path("p.yaml"))
    snapshots = nights(5, retention={"keep_last": 4})
    assert still_kept(snapshots, policy, "web", NOW) == {"night-0"}
    without = parse_policy(HEAD, Path("p.yaml"))
    assert len(still_kept(snapshots, without, "web", NOW)) == 5


@pytest.mark.parametrize(
    "section",
    [
        "keep_last: 1",
        "keep_within: 48h",
        "keep_within: 999999s",
        "keep_daily: 7, keep_within: 3w, timezone: Europe/Berlin",
    ],
)
def test_what_is_recorded_is_read_back(section: str) -> None:
    rules = parse_policy(f"{HEAD}retention: {{{section}}}\n", Path("p.yaml")).retention
    assert rules is not None
    assert Retention.from_record(rules.recorded()) == rules
    with pytest.raises(PolicyError):
        Retention.from_record({**rules.recorded(), "later": 1})
