"""Retention: plans compared with golden files, and what must hold for any history and any rules.

Write the golden files anew with `python -m tests.unit.test_retention`, and read the difference.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drkit.catalog.retention import SKEW, Plan, Series, plan
from drkit.policy import Retention

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "retention"
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
RULES = ("keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly")


@dataclass(frozen=True)
class Held:
    kind: str
    name: str
    status: str = "ok"


@dataclass(frozen=True)
class Taken:
    id: str
    time: str
    targets: tuple[Held, ...] = (Held("volume", "data"),)
    host: str = "web"
    policy: str = "shop"


def taken(time: datetime, *targets: Held, **more: str) -> Taken:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return Taken(f"{time:%Y%m%dt%H%M%Sz}", stamp, targets or (Held("volume", "data"),), **more)


def nightly(days: int, hour: int = 3) -> list[Taken]:
    return [taken(NOW.replace(hour=hour) - timedelta(days=day)) for day in range(days)]


def some_failures() -> list[Taken]:
    """Every third night the database failed, every fourth it was torn; the last two nights it failed."""
    nights = []
    for day in range(20):
        status = "failed" if day < 2 or day % 3 == 0 else "partial" if day % 4 == 0 else "ok"
        nights.append(taken(NOW - timedelta(days=day), Held("volume", "data"), Held("volume", "db", status)))
    return nights


def two_series() -> list[Taken]:
    return [*nightly(10), *(replace(each, id=each.id + "-b", host="db") for each in nightly(10, hour=5))]


def around_the_change_of_clocks() -> list[Taken]:
    """Hourly around the hour that Berlin's clocks repeat, 2026-10-25 01:00 UTC."""
    return [taken(datetime(2026, 10, 24, 21, 30, tzinfo=UTC) + timedelta(hours=hour)) for hour in range(8)]


CASES: dict[str, tuple[list[Taken], Retention, set[tuple[str, Series]]]] = {
    "gfs": (nightly(800), Retention(keep_last=3, keep_daily=7, keep_weekly=4, keep_monthly=12, keep_yearly=3), set()),
    "within": (nightly(10), Retention(keep_within="48h"), set()),
    "failures": (some_failures(), Retention(keep_daily=5), set()),
    "partial-only": (
        [taken(NOW - timedelta(days=day), Held("volume", "db", "partial")) for day in range(4)],
        Retention(keep_daily=7),
        set(),
    ),
    "min-keep": (nightly(5), Retention(keep_within="1h", min_keep=2), set()),
    "two-hosts": (two_series(), Retention(keep_last=2), set()),
    "future": ([*nightly(5), taken(NOW + timedelta(days=3)), taken(NOW + SKEW)], Retention(keep_last=2), set()),
    "proven": (
        nightly(6),
        Retention(keep_last=1),
        {(nightly(6)[day].id, Series("web", "shop", "volume", "data")) for day in (3, 4)},
    ),
    "hourly-berlin": (around_the_change_of_clocks(), Retention(keep_hourly=24, timezone="Europe/Berlin"), set()),
    "daily-utc": (around_the_change_of_clocks(), Retention(keep_daily=2), set()),
    "daily-berlin": (around_the_change_of_clocks(), Retention(keep_daily=2, timezone="Europe/Berlin"), set()),
    "longest": (nightly(3), Retention(keep_within="999999w"), set()),
}


def text(made: Plan) -> str:
    lines = [
        f"{decision.snapshot}  {what:6}  {'; '.join(decision.reasons)}"
        for what, listed in (("keep", made.keep), ("forget", made.forget), ("future", made.future))
        for decision in listed
    ]
    return "\n".join(sorted(lines)) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    snapshots, rules, proven = CASES[name]
    random.Random(name).shuffle(snapshots)
    assert text(plan(snapshots, rules, NOW, proven)) == (GOLDEN / f"{name}.txt").read_text()


STATUS = st.sampled_from(["ok", "ok", "ok", "partial", "failed"])
HELD = st.builds(Held, st.just("volume"), st.sampled_from("ab"), STATUS)
TARGETS = st.lists(HELD, min_size=1, max_size=2, unique_by=lambda held: held.name)


@st.composite
def histories(draw: st.DrawFn) -> list[Taken]:
    hours = draw(st.lists(st.integers(-200, 20_000), min_size=1, max_size=40, unique=True))
    return [
        taken(NOW - timedelta(hours=hour), *draw(TARGETS), host=draw(st.sampled_from(["web", "db"]))) for hour in hours
    ]


@st.composite
def rules_of(draw: st.DrawFn) -> Retention:
    numbers = {name: draw(st.integers(0, 4)) for name in (*RULES, "min_keep")}
    within = draw(st.sampled_from([None, "1h", "3d", "8w"]))
    return Retention(**numbers, keep_within=within, timezone=draw(st.sampled_from(["UTC", "Asia/Kathmandu"])))


def kept(made: Plan) -> set[str]:
    return {decision.snapshot for decision in [*made.keep, *made.future]}


@given(histories(), rules_of())
def test_every_snapshot_is_decided_once_and_has_a_reason(snapshots: list[Taken], rules: Retention) -> None:
    made = plan(snapshots, rules, NOW)
    decided = [decision.snapshot for decision in [*made.keep, *made.forget, *made.future]]
    assert sorted(decided) == sorted(each.id for each in snapshots)
    assert all(decision.reasons for decision in [*made.keep, *made.forget, *made.future])


@given(histories(), rules_of())
def test_planning_again_forgets_nothing_more(snapshots: list[Taken], rules: Retention) -> None:
    first = kept(plan(snapshots, rules, NOW))
    left = [each for each in snapshots if each.id in first]
    assert kept(plan(left, rules, NOW)) == first


@given(histories(), rules_of(), st.sampled_from([*RULES, "min_keep"]), st.integers(1, 3))
def test_a_larger_number_never_keeps_less(snapshots: list[Taken], rules: Retention, rule: str, more: int) -> None:
    larger = rules.model_copy(update={rule: getattr(rules, rule) + more})
    assert kept(plan(snapshots, rules, NOW)) <= kept(plan(snapshots, larger, NOW))


@given(histories(), rules_of())
def test_the_newest_ok_of_every_series_is_kept(snapshots: list[Taken], rules: Retention) -> None:
    staying = kept(plan(snapshots, rules, NOW))
    newest: dict[tuple[str, str], Taken] = {}
    for each in sorted(snapshots, key=lambda each: each.time):
        for target in each.targets:
            if target.status == "ok" and datetime.fromisoformat(each.time) <= NOW + SKEW:
                newest[each.host, target.name] = each
    assert {each.id for each in newest.values()} <= staying


@given(histories(), rules_of(), st.data())
def test_the_newest_proven_one_is_kept(snapshots: list[Taken], rules: Retention, data: st.DataObject) -> None:
    good = [
        (each, Series(each.host, each.policy, target.kind, target.name))
        for each in snapshots
        for target in each.targets
        if target.status == "ok" and datetime.fromisoformat(each.time) <= NOW
    ]
    proven = data.draw(st.lists(st.sampled_from(good), unique=True)) if good else []
    staying = kept(plan(snapshots, rules, NOW, {(each.id, series) for each, series in proven}))
    for series in {series for _, series in proven}:
        newest = max((each for each, of in proven if of == series), key=lambda each: each.time)
        assert newest.id in staying


@given(histories(), rules_of(), st.integers(1, 10_000))
def test_what_is_dated_ahead_changes_nothing(snapshots: list[Taken], rules: Retention, hours: int) -> None:
    ahead = taken(NOW + SKEW + timedelta(hours=hours), host="web")
    snapshots = [each for each in snapshots if each.id != ahead.id]
    with_it, without_it = plan([*snapshots, ahead], rules, NOW), plan(snapshots, rules, NOW)
    assert kept(with_it) == kept(without_it) | {ahead.id}
    assert with_it.forget == without_it.forget


def test_time_zones_are_known_on_a_host_that_has_none() -> None:
    """A bare Debian has no tzdata, and not even UTC."""
    code = "import datetime, zoneinfo; from drkit.policy import Retention; from drkit.catalog.retention import plan\n"
    code += "assert not zoneinfo.TZPATH\nnow = datetime.datetime(2025, 3, 9, tzinfo=datetime.UTC)\n"
    code += "for zone in ('UTC', 'Europe/Berlin'):\n"
    code += "    plan([], Retention(keep_daily=1, timezone=zone), now); zoneinfo.ZoneInfo(zone)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONTZPATH": ""}, check=True)


if __name__ == "__main__":
    for name, (snapshots, rules, proven) in CASES.items():
        (GOLDEN / f"{name}.txt").write_text(text(plan(snapshots, rules, NOW, proven)))
