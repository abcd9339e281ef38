"""What `drkit accept` says where stdout does not take it: it is done all the same."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Iterator

import pytest
import typer

from drkit.cli.options import LogFormat
from drkit.cli.streams import OutputFailed
from drkit.cli.verbs import accept as module
from drkit.operations.accept import Accepted, AcceptResult


@pytest.fixture(autouse=True)
def logger() -> Iterator[None]:
    """drkit sets its logger up for a process of its own; later tests use the one that was there."""
    log = logging.getLogger("drkit")
    before = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.level, log.propagate = before


@pytest.mark.parametrize("json", [False, True])
def test_what_is_accepted_is_not_taken_for_undone(
    json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = AcceptResult("web", "shop", [Accepted("volume", "media", "20260101T000000Z-00000000", "gone")])
    monkeypatch.setattr(module, "accept_targets", lambda context, names: done)

    def full(text: str) -> int:
        raise OutputFailed(OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(sys.stdout, "write", full)
    common = {"policy": None, "repository": None, "quiet": False, "verbose": False, "log_format": LogFormat.text}
    with pytest.raises(typer.Exit) as ended:
        module.accept(target=["media"], json=json, **common)
    assert ended.value.exit_code == 1
    assert "accepted volume media, but stdout does not take the report of it" in capsys.readouterr().err
