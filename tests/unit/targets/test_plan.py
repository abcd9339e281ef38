"""What a policy's entries come to, on an engine that has these volumes."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from drkit.engine.client import EngineError
from drkit.errors import DrkitError, EngineUnavailable
from drkit.policy import Policy, parse_policy
from drkit.repository.format.kinds import Kind
from drkit.targets import plan_targets
from drkit.targets.base import Planned


class Volumes:
    """As much of an engine as a plan asks."""

    def __init__(self, *names: str) -> None:
        self._volumes = {name: {"Name": name} for name in names}

    def get(self, doing: str, path: str, **request: Any) -> dict[str, Any]:
        assert path == "/volumes"
        return {"Volumes": list(self._volumes.values())}

    def look_up(self, doing: str, path: str) -> dict[str, Any] | None:
        return self._volumes.get(path.removeprefix("/volumes/"))


def policy(volumes: str) -> Policy:
    head = "version: 1\nname: shop\nrepository: {url: /r, recipients_file: r, identity_file: i}\n"
    entries = textwrap.indent(textwrap.dedent(volumes), "    ")
    return parse_policy(f"{head}protect:\n  volumes:\n{entries}", Path("/etc/drkit/policy.yaml"))


def test_the_entry_that_names_a_volume_wins_then_the_first_whose_pattern_matches() -> None:
    entries = """\
        - match: "media_*"
          exclude: [first]
        - match: "*"
          exclude: [second]
        - name: media_named
          exclude: [named]
    """
    engine = Volumes("media_x", "media_named", "other")
    planned = plan_targets(policy(entries), engine)  # type: ignore[arg-type]
    assert {target.name: target.exclude for target in planned} == {
        "media_x": ("first",),
        "media_named": ("named",),
        "other": ("second",),
    }


def test_a_volume_that_no_entry_matches_is_left_out() -> None:
    planned = plan_targets(policy("- name: shop_data\n"), Volumes("shop_data", "other"))  # type: ignore[arg-type]
    assert planned == [Planned(Kind.VOLUME, "shop_data")]


class Sick(Volumes):
    """An engine that tells nothing of some volumes, and of itself only while it is `alive`."""

    def __init__(self, *names: str, errors: dict[str, DrkitError], alive: bool = True) -> None:
        super().__init__(*names)
        self._errors, self._alive = errors, alive

    def look_up(self, doing: str, path: str) -> dict[str, Any] | None:
        if (error := self._errors.get(path.rpartition("/")[2])) is not None:
            raise error
        return super().look_up(doing, path)

    def require_alive(self, error: DrkitError) -> None:
        if not self._alive:
            raise error


ENTRIES = '- name: v_a\n- name: v_b\n- match: "*"\n'


def test_a_request_that_times_out_is_the_problem_of_its_target_alone() -> None:
    error = EngineUnavailable(
        "volume v_b: the engine did not answer in time", hint="See its log: journalctl -u docker."
    )
    planned = plan_targets(policy(ENTRIES), Sick("v_a", "v_b", "v_c", errors={"v_b": error}))  # type: ignore[arg-type]
    assert [(target.name, target.problem) for target in planned] == [
        ("v_a", None),
        ("v_b", "the engine did not answer in time"),
        ("v_c", None),
    ]
    assert planned[1].hint == error.hint


def test_an_engine_that_is_away_ends_the_plan() -> None:
    error = EngineUnavailable("volume v_b: connection refused")
    with pytest.raises(EngineUnavailable, match="connection refused"):
        plan_targets(policy(ENTRIES), Sick("v_a", "v_b", errors={"v_b": error}, alive=False))  # type: ignore[arg-type]


def test_the_error_of_a_target_names_it_once_and_keeps_what_another_program_said() -> None:
    error = EngineError("volume v_b: get v_b: password=secret", said="get v_b: password=secret", status=500)
    planned = plan_targets(policy(ENTRIES), Sick("v_a", "v_b", errors={"v_b": error}))  # type: ignore[arg-type]
    assert (planned[1].problem, planned[1].said) == ("get v_b: password=secret", error.said)
    assert planned[1].hint == "See what the engine says of it: docker volume inspect v_b."
