"""The section `retention`: how long to keep what was backed up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Self

from pydantic import Field, ValidationError, field_serializer

from drkit.errors import PolicyError
from drkit.policy.durations import format_duration
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

    @field_serializer("keep_within", when_used="json-unless-none")
    def _as_people_write_it(self, duration: timedelta) -> str:
        return format_duration(duration)

    def recorded(self) -> dict[str, Any]:
        """Return the section as a snapshot's record holds it, for hosts that cannot read the policy's text."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def from_record(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `recorded` returned. Raises PolicyError for anything else, such as a rule of a newer drkit."""
        try:
            rules = cls.model_validate(fields)
        except ValidationError as error:
            raise PolicyError(f"retention of a record: {error.errors()[0]['msg']}") from None
        for problem in cls.problems(fields, ()):
            raise PolicyError(f"retention of a record: {problem.what}")
        return rules
