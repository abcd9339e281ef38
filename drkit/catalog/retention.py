"""Which snapshots to keep, and why: a pure decision.

A *series* is all captures of one target of one host and policy. The rules choose in each series on its own,
among the captures that are `ok`; a snapshot stays while any of its targets is chosen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol
from zoneinfo import ZoneInfo

from drkit.policy import Retention
from drkit.repository.format.kinds import Status

SKEW = timedelta(minutes=5)
"""How far ahead of our clock another host's may be. A snapshot dated later than that neither counts nor goes."""


class TargetRecord(Protocol):
    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...


class SnapshotRecord(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def time(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def policy(self) -> str: ...
    @property
    def targets(self) -> Sequence[TargetRecord]: ...


class Series(NamedTuple):
    host: str
    policy: str
    kind: str
    name: str


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
    snapshot: str
    status: str


def plan(
    snapshots: Iterable[SnapshotRecord], rules: Retention, now: datetime, proven: Collection[tuple[str, Series]] = ()
) -> Plan:
    """Decide about every snapshot. `proven`: the captures, by snapshot id and series, that a drill has proven.

    Never goes: the newest `ok` capture of a series, its newest proven one, and a `partial` one as long as nothing newer
    is `ok`. Only `ok` captures count towards the rules; `keep_within` keeps `partial` ones too.
    """
    series: dict[Series, list[_Capture]] = defaultdict(list)
    result = Plan()
    order: list[tuple[datetime, str]] = []
    for snapshot in snapshots:
        time = datetime.fromisoformat(snapshot.time)
        if time > now + SKEW:
            result.future.append(Decision(snapshot.id, [f"dated {snapshot.time}, which is yet to come"]))
            continue
        order.append((time, snapshot.id))
        for target in snapshot.targets:
            identity = Series(snapshot.host, snapshot.policy, target.kind, target.name)
            series[identity].append(_Capture(time, snapshot.id, target.status))
    reasons: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for identity, captures in sorted(series.items()):
        captures.sort(reverse=True)
        for snapshot_id, reason in _choose(captures, rules, now, {each for each, which in proven if which == identity}):
            reasons[snapshot_id][reason].append(f"{identity.kind} {identity.name}")
    for _, snapshot_id in sorted(order):
        why = reasons.get(snapshot_id)
        if why is None:
            result.forget.append(Decision(snapshot_id, ["no rule keeps any of its targets"]))
        else:
            result.keep.append(Decision(snapshot_id, [f"{why_} of {', '.join(of)}" for why_, of in why.items()]))
    result.future.sort()
    return result


def _choose(captures: list[_Capture], rules: Retention, now: datetime, proven: set[str]) -> Iterator[tuple[str, str]]:
    """Yield snapshot and reason for each capture of one series, newest first, that stays."""
    good = [capture for capture in captures if capture.status == Status.OK]
    if rules.keep_within is not None:
        for capture in captures:
            if now - capture.time < rules.keep_within and capture.status != Status.FAILED:
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
