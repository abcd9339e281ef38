"""Which snapshots to keep, and why: a pure decision.

A *series* is all captures of one target in one line. The rules choose in each series on its own, among the captures
that are `ok`; a snapshot stays while any of its targets is chosen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from drkit.catalog.shrunk import standing
from drkit.policy import Retention
from drkit.repository.format.kinds import Status
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.lines import Line

SKEW = timedelta(minutes=5)
"""How far ahead of our clock another host's may be. A newest snapshot dated later neither counts nor goes."""


PINNED = "pinned: the capture after it shrank"


class Series(NamedTuple):
    host: str
    policy: str
    kind: str
    name: str
    origin: str = ""
    """The one that goes on; empty for records that nobody signed."""


class Decision(NamedTuple):
    """`reasons` say why a snapshot stays, or why it goes."""

    snapshot: str
    reasons: list[str]


@dataclass
class Plan:
    """Decisions about all snapshots, oldest first. `future`: dated so far ahead that they are left alone."""

    keep: list[Decision] = field(default_factory=list)
    forget: list[Decision] = field(default_factory=list)
    future: list[Decision] = field(default_factory=list)

    @property
    def forgotten(self) -> frozenset[str]:
        return frozenset(decision.snapshot for decision in self.forget)


class _Capture(NamedTuple):
    time: datetime
    said: datetime
    """What its clock said. If that has come, `keep_within` goes by the later one of both, since doubt keeps."""
    snapshot: str
    status: str


def plan(lines: Iterable[Line], rules: Retention, now: datetime, proven: Collection[tuple[str, Series]] = ()) -> Plan:
    """Decide about every snapshot. `proven`: the captures, by snapshot id and series, that a drill has proven.

    Never goes: the newest `ok` capture of a series, its newest proven one, a `partial` one as long as nothing newer is
    `ok`, and while the newest `ok` one is shrunk, the one that it pins. Only `ok` captures count towards the rules;
    `keep_within` keeps `partial` ones too. Copies of one snapshot count once, and stay or go together.
    """
    result = Plan()
    order: list[tuple[datetime, str]] = []
    reasons: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        copies: dict[str, list[str]] = defaultdict(list)
        for snapshot in line.snapshots:
            copies[snapshot.original].append(snapshot.id)
        past, future = _past_and_future(list({each.original: each for each in line.snapshots}.values()), now)
        for snapshot in future:
            why = [f"dated {snapshot.time}, which is yet to come"]
            result.future += [Decision(name, why) for name in copies[snapshot.original]]
        series: dict[Series, list[_Capture]] = defaultdict(list)
        times = [_time(each) for each in past]
        for snapshot, said, time in zip(past, times, effective_times(times, now), strict=True):
            order += [(time, name) for name in copies[snapshot.original]]
            for target in snapshot.targets:
                identity = Series(line.host, line.policy, target.kind, target.name, *line.origins[:1])
                series[identity].append(_Capture(time, said, snapshot.id, target.status))
        for identity, captures in sorted(series.items()):
            captures.reverse()
            shown = {each for each, which in proven if which == identity}
            for snapshot_id, reason in _choose(captures, rules, now, shown):
                reasons[snapshot_id][reason].append(f"{identity.kind} {identity.name}")
        for shrunk in standing(past):
            if shrunk.pinned is not None:
                reasons[shrunk.pinned.id][PINNED].append(shrunk.title)
        for snapshot in past:
            for name in copies[snapshot.original]:
                if snapshot.id in reasons:
                    reasons[name] = reasons[snapshot.id]
    for _, snapshot_id in sorted(order):
        chosen = reasons.get(snapshot_id)
        if chosen is None:
            result.forget.append(Decision(snapshot_id, ["no rule keeps any of its targets"]))
        else:
            result.keep.append(Decision(snapshot_id, [_reason(why, of) for why, of in chosen.items()]))
    result.future.sort()
    return result


def _reason(why: str, of: Sequence[str]) -> str:
    named = ", ".join(of)
    return f"{why} ({named})" if why == PINNED else f"{why} of {named}"


def _time(snapshot: Snapshot) -> datetime:
    return datetime.fromisoformat(snapshot.time)


def _past_and_future(snapshots: list[Snapshot], now: datetime) -> tuple[list[Snapshot], list[Snapshot]]:
    """Set the newest ones apart that are dated ahead: what comes after them will tell when they were made."""
    end = len(snapshots)
    while end and _time(snapshots[end - 1]) > now + SKEW:
        end -= 1
    return snapshots[:end], snapshots[end:]


def effective_times(times: Sequence[datetime], now: datetime) -> list[datetime]:
    """Return times in the order in which the snapshots were made, oldest first, from what their clocks said.

    A clock may be wrong for a night, by seconds or by years, in either direction. The most times that agree with the
    order are taken as they are. Each of the others is moved between its neighbours: to the nearer one if it is off by
    seconds, else into the middle. So a wrong clock changes the place of no snapshot but its own.
    """
    right = _agreeing(times, now + SKEW)
    result = list(times)
    ends = zip([None, *right], [*right, None], strict=True)
    for before, after in ends:
        wrong = range(0 if before is None else before + 1, len(times) if after is None else after)
        low, high = (None if end is None else times[end] for end in (before, after))
        for place, number in enumerate(wrong, 1):
            moved = _between(times[number], low, high, place / (len(wrong) + 1))
            result[number] = max(moved, result[number - 1]) if number else moved
    return result


def _between(time: datetime, low: datetime | None, high: datetime | None, share: float) -> datetime:
    """Move a time that is not between its neighbours' there."""
    if low is None or high is None:
        return low or high or time
    if time >= high:
        return high if time - high <= SKEW else low + (high - low) * share
    return low if low - time <= SKEW else low + (high - low) * share


def _agreeing(times: Sequence[datetime], end: datetime) -> list[int]:
    """Return the numbers of a longest run of rising times, not necessarily neighbours, none of them after `end`.

    Where there are several, one that ends early: rather the older of two that disagree was dated ahead.
    """
    ends: list[int] = []  # of the best run of each length: the number of its last time
    before: dict[int, int | None] = {}
    for number, time in enumerate(times):
        if time > end:
            continue
        length = bisect_left(ends, time, key=times.__getitem__)
        before[number] = ends[length - 1] if length else None
        ends[length : length + 1] = [number]
    run: list[int] = []
    at: int | None = ends[-1] if ends else None
    while at is not None:
        run.append(at)
        at = before[at]
    return run[::-1]


def _choose(captures: list[_Capture], rules: Retention, now: datetime, proven: set[str]) -> Iterator[tuple[str, str]]:
    """Yield snapshot and reason for each capture of one series, newest first, that stays."""
    good = [capture for capture in captures if capture.status == Status.OK]
    if rules.keep_within is not None:
        for capture in captures:
            latest = max(capture.time, capture.said) if capture.said <= now else capture.time
            if now - latest < rules.keep_within and capture.status != Status.FAILED:
                yield capture.snapshot, "within the time"
    for capture in good[:1]:
        yield capture.snapshot, "newest"
    for capture in captures[: captures.index(good[0])] if good else captures:
        if capture.status == Status.PARTIAL:
            yield capture.snapshot, "newest that is partial"
            break
    for capture in good:
        if capture.snapshot in proven:
            yield capture.snapshot, "newest proven"
            break
    for capture in good[: rules.keep_last]:
        yield capture.snapshot, "last"
    for capture in good[: rules.min_keep]:
        yield capture.snapshot, "fewest to keep"
    zone = ZoneInfo(rules.timezone)
    for count, name, period in (
        (rules.keep_hourly, "hourly", _hour),
        (rules.keep_daily, "daily", _day),
        (rules.keep_weekly, "weekly", _week),
        (rules.keep_monthly, "monthly", _month),
        (rules.keep_yearly, "yearly", _year),
    ):
        yield from ((capture.snapshot, name) for capture in _last_of_each(good, count, period, zone))


def _last_of_each(
    good: Iterable[_Capture], count: int, period: Callable[[datetime], object], zone: ZoneInfo
) -> Iterator[_Capture]:
    """Yield the newest capture of each of the `count` newest periods that have one."""
    seen: set[object] = set()
    for capture in good:
        if len(seen) >= count:
            return
        this = period(capture.time.astimezone(zone))
        if this not in seen:
            seen.add(this)
            yield capture


def _hour(time: datetime) -> object:
    return time.date(), time.hour, time.utcoffset()  # an hour that the clock repeats in autumn is two


def _day(time: datetime) -> object:
    return time.date()


def _week(time: datetime) -> object:
    return time.isocalendar()[:2]


def _month(time: datetime) -> object:
    return time.year, time.month


def _year(time: datetime) -> object:
    return time.year
