"""The shell around a restore's tar: data goes to the disk meanwhile, and no write error is lost on the way."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from drkit.engine.helper.writing import _FLUSH, _FLUSHED

TELLS_IT_ONCE = """#!/bin/sh
echo sync >>"$LOG"
[ "$(wc -l <"$LOG")" -ne {failing} ]
"""


def run(directory: Path, *, failing: int, sleep: bool = True, tar: str = "sleep 1.5") -> tuple[int, int]:
    """Exit status, and how often sync was called; its call number `failing` fails, as after an I/O error."""
    (directory / "sync").write_text(TELLS_IT_ONCE.format(failing=failing))
    (directory / "sync").chmod(0o755)
    for tool in ["wc", *(["sleep"] if sleep else [])]:
        (directory / tool).symlink_to(shutil.which(tool) or "")
    log = directory / "log"
    done = subprocess.run(
        ["/bin/sh", "-c", f"{_FLUSH}{tar}\nstatus=$?\n{_FLUSHED}exit $status"],
        env={"PATH": str(directory), "LOG": str(log)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("", "")
    return done.returncode, len(log.read_text().splitlines())


def test_it_syncs_while_tar_runs_and_once_more_at_the_end(tmp_path: Path) -> None:
    status, syncs = run(tmp_path, failing=0)
    assert status == 0
    assert syncs >= 2


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_an_error_that_only_one_sync_is_told_of_is_not_lost(tmp_path: Path, failing: int) -> None:
    status, syncs = run(tmp_path, failing=failing)
    assert syncs >= failing
    assert status == 74


def test_the_status_of_tar_comes_first(tmp_path: Path) -> None:
    assert run(tmp_path, failing=0, tar="sleep 1.5; (exit 2)")[0] == 2


def test_a_helper_without_sleep_syncs_at_the_end(tmp_path: Path) -> None:
    assert run(tmp_path, failing=0, sleep=False, tar=":") == (0, 1)


def test_a_short_restore_does_not_wait(tmp_path: Path) -> None:
    status, syncs = run(tmp_path, failing=0, tar=":")
    assert (status, syncs) in {(0, 1), (0, 2)}
