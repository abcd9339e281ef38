"""The section `retention`: how long to keep what was backed up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from drkit.policy.problem import Key, Problem
from drkit.policy.section import Section
from drkit.policy.values import Count, Duration, Timezone


class Retention(Section):
    """Which snapshots to keep: each one that any rule keeps. Hours, days and so on without a snapshot do not count."""

    keep_last: Count = Field(default=0, description="how many of the newest snapshots to keep")
    keep_hourly: Count = Field(default=0, description="for how many hours to keep the last snapshot of each")
    keep_daily: Count = Field(default=0, description="for how many days to keep the last snapshot of each")
    keep_weekly: Count = Field(default=0, description="for how many weeks to keep the last snapshot of each")
    keep_monthly: Count = Field(default=0, description="for how many months to keep the last snapshot of each")
    keep_yearly: Count = Field(default=0, description="for how many years to keep the last snapshot of each")
    keep_within: Duration | None = Field(default=None, description="keep every snapshot younger than this")
    min_keep: Count = Field(default=1, description="never keep fewer snapshots than this")
    timezone: Timezone = Field(
        default="UTC", description="the time zone in which hours, days, weeks, months and years begin"
    )

    @classmethod
    def problems(cls, given: Mapping[str, Any], where: Key) -> Iterator[Problem]:
        if all(value in (0, None) for key, value in given.items() if key.startswith("keep_")):
            yield Problem(
                where,
                "keeps nothing; expected at least one keep_ rule, or no retention section, which keeps everything",
            )
