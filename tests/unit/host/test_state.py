"""A state directory that cannot be written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from drkit.errors import DrkitError
from drkit.host.known_helpers import KnownHelper
from drkit.host.restore_journal import RestoreNote
from drkit.host.state import HostState


def hold(state: HostState) -> None:
    with state.containers.held("0" * 64, "a test"):
        raise AssertionError("nobody holds it")


@pytest.mark.parametrize(
    "keep",
    [
        hold,
        lambda state: state.copies.note("data", "0011223344556677"),
        lambda state: state.restores.begin("data", RestoreNote("0011223344556677")),
        lambda state: state.helpers.note(KnownHelper("engine", "amd64", f"sha256:{'0' * 64}", "host", "1.34", "4")),
    ],
)
def test_what_cannot_be_kept_says_which_file_and_how_to_name_another_place(
    tmp_path: Path, keep: Callable[[HostState], None]
) -> None:
    place = tmp_path / "state"
    place.write_text("in the way")
    with pytest.raises(DrkitError, match=rf"cannot write {place}/\w+/\w+") as caught:
        keep(HostState(place))
    assert "DRKIT_STATE_DIR" in (caught.value.hint or "")
    with HostState(place).helpers.building(), HostState(place).scratch.one() as name:
        assert name.startswith("drkit-probe-")
