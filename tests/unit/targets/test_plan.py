"""What a policy's entries come to, on an engine that has these volumes."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

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
