"""Variables of the environment: unknown ones, and directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.errors import UsageError
from drkit.host.state import state_directory
from drkit.settings import VARIABLES, cache_directory, directory_from, unknown_variables


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DRKIT_REPOSITRY", "DRKIT_REPOSITORY"),
        ("DRKIT_REPOSITORY_URL", "DRKIT_REPOSITORY"),
        ("DRKIT_IDENTITYFILE", "DRKIT_IDENTITY_FILE"),
        ("DRKIT_STATEDIR", "DRKIT_STATE_DIR"),
        ("drkit_repository", "DRKIT_REPOSITORY"),
        ("DRKIT_PASSWORD", ""),
        ("DRKIT_X", ""),
    ],
)
def test_a_variable_that_drkit_does_not_know(name: str, meant: str) -> None:
    [said] = unknown_variables({"PATH": "/bin", name: "x", **dict.fromkeys(VARIABLES, "y")})
    assert repr(name) in said
    assert said.endswith(f"did you mean {meant}?" if meant else "means nothing to drkit")


def test_a_value_is_never_shown() -> None:
    assert "hunter2" not in "".join(unknown_variables({"DRKIT_PASSWORD": "hunter2"}))


@pytest.mark.parametrize("value", ["state", "./state", "~/state", "$HOME/state", "/var/lib/${X}", "%S/drkit", " /s"])
@pytest.mark.parametrize("name", ["DRKIT_STATE_DIR", "DRKIT_CACHE_DIR", "DRKIT_EXCHANGE_DIR"])
def test_a_directory_that_would_be_another_one_each_time(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is "):
        directory_from({name: value}, name)


def test_an_empty_directory_is_none() -> None:
    assert directory_from({"X": ""}, "X") is None
    assert directory_from({}, "X", of_systemd="Y") is None


def test_of_several_directories_of_systemd_the_first_is_ours() -> None:
    assert state_directory({"STATE_DIRECTORY": "/var/lib/drkit:/var/lib/other"}) == Path("/var/lib/drkit")
    assert cache_directory({"CACHE_DIRECTORY": "/var/cache/drkit:/x", "DRKIT_CACHE_DIR": ""}) == Path(
        "/var/cache/drkit"
    )
