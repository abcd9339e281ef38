"""Retention: plans compared with golden files, and what must hold for any history and any rules.

Write the golden files anew with `python -m tests.unit.test_retention`, and read the difference.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drkit.catalog import retention
from drkit.catalog.retention import SKEW, Plan, Series
from drkit.policy import Retention
from drkit.repository.format.kinds import Status
from drkit.repository.format.snapshot import Previous, Snapshot, Target
from drkit.repository.lines import lines_of

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "retention"
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
RULES = ("keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly")


def held(name: str = "data", status: str = "ok") -> Target:
    return Target("volume", name, Status(status))


def taken(time: datetime, *targets: Target, host: str = "web", **more: Any) -> Snapshot:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return Snapshot(f"{time:%Y%m%dt%H%M%Sz}", stamp, host, "shop", Status.OK, [*targets] or [held()], **more)


def plan(
    snapshots: Iterable[Snapshot], rules: Retention, now: datetime, proven: Collection[tuple[str, Series]] = ()
) -> Plan:
    return retention.plan(lines_of(snapshots), rules, now, proven)


def nightly(days: int, hour: int = 3) -> list[Snapshot]:
    return [taken(NOW.replace(hour=hour) - timedelta(days=day)) for day in range(days)]


def some_failures() -> list[Snapshot]:
    """Every third night the database failed, every fourth it was torn; the last two nights it failed."""
    nights = []
    for day in range(20):
        status = "failed" if day < 2 or day % 3 == 0 else "partial" if day % 4 == 0 else "ok"
        nights.append(taken(NOW - timedelta(days=day), held(), held("db", status)))
    return nights


def two_series() -> list[Snapshot]:
    return [*nightly(10), *(replace(each, id=each.id + "-b", host="db") for each in nightly(10, hour=5))]


def around_the_change_of_clocks() -> list[Snapshot]:
    """Hourly around the hour that Berlin's clocks repeat, 2026-10-25 01:00 UTC."""
    return [taken(datetime(2026, 10, 24, 21, 30, tzinfo=UTC) + timedelta(hours=hour)) for hour in range(8)]


CASES: dict[str, tuple[list[Snapshot], Retention, set[tuple[str, Series]]]] = {
    "gfs": (nightly(800), Retention(keep_last=3, keep_daily=7, keep_weekly=4, keep_monthly=12, keep_yearly=3), set()),
    "within": (nightly(10), Retention(keep_within="48h"), set()),
    "failures": (some_failures(), Retention(keep_daily=5), set()),
    "partial-only": (
        [taken(NOW - timedelta(days=day), held("db", "partial")) for day in range(4)],
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
HELD = st.builds(held, st.sampled_from("ab"), STATUS)
TARGETS = st.lists(HELD, min_size=1, max_size=2, unique_by=lambda target: target.name)


@st.composite
def histories(draw: st.DrawFn) -> list[Snapshot]:
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
def test_every_snapshot_is_decided_once_and_has_a_reason(snapshots: list[Snapshot], rules: Retention) -> None:
    made = plan(snapshots, rules, NOW)
    decided = [decision.snapshot for decision in [*made.keep, *made.forget, *made.future]]
    assert sorted(decided) == sorted(each.id for each in snapshots)
    assert all(decision.reasons for decision in [*made.keep, *made.forget, *made.future])


@given(histories(), rules_of())
def test_planning_again_forgets_nothing_more(snapshots: list[Snapshot], rules: Retention) -> None:
    first = kept(plan(snapshots, rules, NOW))
    left = [each for each in snapshots if each.id in first]
    assert kept(plan(left, rules, NOW)) == first


@given(histories(), rules_of(), st.sampled_from([*RULES, "min_keep"]), st.integers(1, 3))
def test_a_larger_number_never_keeps_less(snapshots: list[Snapshot], rules: Retention, rule: str, more: int) -> None:
    larger = rules.model_copy(update={rule: getattr(rules, rule) + more})
    assert kept(plan(snapshots, rules, NOW)) <= kept(plan(snapshots, larger, NOW))


@given(histories(), rules_of())
def test_the_newest_ok_of_every_series_is_kept(snapshots: list[Snapshot], rules: Retention) -> None:
    staying = kept(plan(snapshots, rules, NOW))
    newest: dict[tuple[str, str], Snapshot] = {}
    for each in sorted(snapshots, key=lambda each: each.time):
        for target in each.targets:
            if target.status == "ok" and datetime.fromisoformat(each.time) <= NOW + SKEW:
                newest[each.host, target.name] = each
    assert {each.id for each in newest.values()} <= staying


@given(histories(), rules_of(), st.data())
def test_the_newest_proven_one_is_kept(snapshots: list[Snapshot], rules: Retention, data: st.DataObject) -> None:
    good = [
        (each, Series(each.host, each.policy, target.kind, target.name))
        for each in snapshots
        for target in each.targets
        if target.status == "ok" and datetime.fromisoformat(each.time) <= NOW
    ]
    proven = data.draw(st.lists(st.sampled_from(good), unique_by=lambda each: (each[0].id, each[1]))) if good else []
    staying = kept(plan(snapshots, rules, NOW, {(each.id, series) for each, series in proven}))
    for series in {series for _, series in proven}:
        newest = max((each for each, of in proven if of == series), key=lambda each: each.time)
        assert newest.id in staying


@given(histories(), rules_of(), st.integers(1, 10_000))
def test_what_is_dated_ahead_changes_nothing(snapshots: list[Snapshot], rules: Retention, hours: int) -> None:
    ahead = taken(NOW + SKEW + timedelta(hours=hours), host="web")
    snapshots = [each for each in snapshots if each.id != ahead.id]
    with_it, without_it = plan([*snapshots, ahead], rules, NOW), plan(snapshots, rules, NOW)
    assert kept(with_it) == kept(without_it) | {ahead.id}
    assert with_it.forget == without_it.forget


# --- what a loss pins -------------------------------------------------------------------------------------------------


def shrunk(pins: Snapshot, name: str = "data", status: str = "ok") -> Target:
    return replace(held(name, status), flags=["shrunk"], pins=pins.id)


def test_what_the_newest_capture_pins_stays_with_the_reason() -> None:
    full, *_ = before = nightly(10)[::-1]
    lost = [replace(each, targets=[shrunk(full)]) for each in before[1:]]
    made = plan([full, *lost], Retention(keep_last=2), NOW)
    assert [decision.snapshot for decision in made.keep] == [full.id, lost[-2].id, lost[-1].id]
    assert made.keep[0].reasons == ["pinned: the capture after it shrank (volume data)"]


def test_what_is_back_or_accepted_pins_nothing() -> None:
    full, *later = nightly(5)[::-1]
    lost = [replace(each, targets=[shrunk(full)]) for each in later[:-1]]
    made = plan([full, *lost, later[-1]], Retention(keep_last=1), NOW)
    assert [decision.snapshot for decision in made.keep] == [later[-1].id]


def test_a_capture_that_failed_since_changes_no_pin() -> None:
    full, second, *later = nightly(6)[::-1]
    bad = [
        replace(each, targets=[held(status="failed" if number % 2 else "partial")]) for number, each in enumerate(later)
    ]
    made = plan([full, replace(second, targets=[shrunk(full)]), *bad], Retention(keep_last=1), NOW)
    assert {full.id, second.id} <= kept(made)


def test_a_record_pins_nothing_of_another_line() -> None:
    full, lost = nightly(2)[::-1]
    elsewhere = [replace(each, id=f"{each.id}-db", host="db") for each in nightly(5, hour=5)]
    made = plan([full, replace(lost, targets=[shrunk(elsewhere[-1])]), *elsewhere], Retention(keep_last=1), NOW)
    assert elsewhere[-1].id not in kept(made)


def test_all_copies_of_what_is_pinned_stay() -> None:
    full, *later = signed(nights(4))
    copies = [replace(full, id=f"copy-{number}", copy_of=full.id) for number in range(3)]
    lost = [replace(each, targets=[shrunk(full)]) for each in later]
    made = plan([full, *copies, *lost], Retention(keep_last=1), NOW)
    assert kept(made) == {full.id, later[-1].id, *(each.id for each in copies)}


@st.composite
def histories_with_losses(draw: st.DrawFn) -> list[Snapshot]:
    made: list[Snapshot] = []
    for each in sorted(draw(histories()), key=lambda each: each.time):
        targets = [
            shrunk(draw(st.sampled_from(made)), target.name, target.status) if made and draw(st.booleans()) else target
            for target in each.targets
        ]
        made.append(replace(each, targets=targets))
    return made


@given(histories_with_losses(), rules_of())
def test_pins_hold_and_planning_again_forgets_nothing_more(snapshots: list[Snapshot], rules: Retention) -> None:
    first = kept(plan(snapshots, rules, NOW))
    left = [each for each in snapshots if each.id in first]
    assert kept(plan(left, rules, NOW)) == first
    past = [each for each in snapshots if datetime.fromisoformat(each.time) <= NOW + SKEW]
    newest = {(each.host, target.name): target for each in past for target in each.targets if target.status == "ok"}
    pinned = {target.pins: host for (host, _), target in newest.items() if target.pins}
    assert {each.id for each in past if pinned.get(each.id) == each.host} <= first


# --- sequences and clocks ---------------------------------------------------------------------------------------------

OURS, THEIRS = "aa" * 32, "bb" * 32


def signed(times: Iterable[datetime], origin: str = OURS, **more: Any) -> list[Snapshot]:
    """The records of one installation, in the order in which it made them; ids do not tell it."""
    made = [taken(time, origin=origin, sequence=number, **more) for number, time in enumerate(times, 1)]
    return [replace(each, id=f"{origin[:2]}-{each.sequence}") for each in made]


def nights(count: int) -> list[datetime]:
    return [NOW - timedelta(days=count - number, hours=-1) for number in range(count)]


def numbers(made: Plan) -> list[int]:
    return sorted(int(decision.snapshot.split("-")[1]) for decision in made.keep)


RULE_SETS = [
    Retention(keep_last=3),
    Retention(keep_daily=5),
    Retention(keep_within="5d"),
    Retention(keep_daily=4, keep_weekly=3, keep_monthly=2),
]


@pytest.mark.parametrize("rules", RULE_SETS)
@pytest.mark.parametrize("night", [0, 3, 20, 27, 28])
@pytest.mark.parametrize(
    "wrong", [timedelta(days=2), timedelta(days=4000), timedelta(seconds=-1), timedelta(days=-2), timedelta(days=-9000)]
)
def test_a_clock_that_was_wrong_for_one_night_changes_nothing(rules: Retention, night: int, wrong: timedelta) -> None:
    times = nights(30)
    right = plan(signed(times), rules, NOW)
    times[night] += wrong
    found = plan(signed(times), rules, NOW)
    at_most = {night + 1} if abs(wrong) > timedelta(hours=1) else set()
    assert set(numbers(found)) ^ set(numbers(right)) <= at_most, "another night than the wrong one is decided otherwise"
    assert not found.future


def test_the_newest_is_the_highest_sequence(caplog: pytest.LogCaptureFixture) -> None:
    times = nights(10)
    times[-1] = times[-2] - timedelta(seconds=1)
    assert numbers(plan(signed(times), Retention(keep_last=1), NOW)) == [10]


def test_a_newest_one_that_is_dated_ahead_neither_counts_nor_goes() -> None:
    times = [*nights(10), NOW + timedelta(days=2)]
    made = plan(signed(times), Retention(keep_last=1), NOW)
    assert [decision.snapshot for decision in made.future] == ["aa-11"]
    assert numbers(made) == [10]


@given(st.lists(st.integers(-5000, 5000), min_size=1, max_size=40))
def test_effective_times_keep_the_order_and_stay_between_what_clocks_said(hours: list[int]) -> None:
    times = [NOW + timedelta(hours=each) for each in hours]
    past, _ = retention._past_and_future([taken(each) for each in times], NOW)
    times = times[: len(past)]
    found = retention.effective_times(times, NOW)
    assert found == sorted(found)
    assert all(each <= NOW + SKEW for each in found)
    assert not times or min(found) >= min(times)
    in_order = [each for each in times if each <= NOW + SKEW]
    if in_order == sorted(in_order) == times:
        assert found == times


def test_two_installations_of_one_host_are_two_series() -> None:
    both = [*signed(nights(10)), *signed(nights(10), THEIRS)]
    made = plan(both, Retention(keep_last=2), NOW)
    assert {decision.snapshot for decision in made.keep} == {"aa-9", "aa-10", "bb-9", "bb-10"}


def test_an_adopted_series_is_the_older_part_of_the_one_that_goes_on() -> None:
    old = signed(nights(10))
    new = [
        replace(each, sequence=each.sequence + 10, adopted=[OURS], previous=Previous("aa-10", 10))
        for each in signed(nights(2), THEIRS)
    ]
    made = plan([*old, *new], Retention(keep_last=3), NOW)
    assert {decision.snapshot for decision in made.keep} == {"bb-1", "bb-2", "aa-10"}


def test_copies_of_one_snapshot_count_once_and_stay_together() -> None:
    """Whoever holds the meta key can store a signed record under other names, as copies of itself."""
    snapshots = signed(nights(10))
    replayed = [replace(snapshots[-1], id=f"copy-{number}", copy_of=snapshots[-1].id) for number in range(100, 105)]
    made = plan([*snapshots, *replayed], Retention(keep_last=3), NOW)
    assert set(numbers(made)) == {8, 9, 10, *range(100, 105)}
    old = [replace(snapshots[0], id=f"copy-{number}", copy_of=snapshots[0].id) for number in range(100, 105)]
    assert set(numbers(plan([*snapshots, *old], Retention(keep_last=3), NOW))) == {8, 9, 10}


def test_records_that_nobody_signed_push_no_signed_one_out() -> None:
    forged = [taken(NOW - timedelta(minutes=number)) for number in range(20)]
    with_them = plan([*signed(nights(10)), *forged], Retention(keep_last=3), NOW)
    signed_ones = [decision.snapshot for decision in with_them.keep if decision.snapshot.startswith("aa-")]
    assert sorted(signed_ones) == ["aa-10", "aa-8", "aa-9"]


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
