"""scripts/s3: running it twice changes nothing, and it says what is what."""

from __future__ import annotations

import os
import subprocess

from tests.conftest import PROJECT
from tests.support.s3 import S3Server


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [PROJECT / "scripts/s3", *arguments]
    return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=120, check=False)


def test_a_second_start_changes_nothing(s3_server: S3Server) -> None:
    again = script("start")
    assert again.returncode == 0
    assert f"already running at {s3_server.http}" in again.stderr
    status = script("status")
    assert status.returncode == 0
    assert s3_server.https in status.stderr


def test_env_names_the_server_that_the_tests_use(s3_server: S3Server) -> None:
    lines = script("env").stdout.splitlines()
    assert f"export DRKIT_S3_HTTP={s3_server.http}" in lines
    assert f"export DRKIT_S3_CA={s3_server.ca}" in lines


def test_a_wrong_word_is_answered_with_the_usage() -> None:
    for arguments in ([], ["restart"], ["start", "twice"]):
        refused = script(*arguments)
        assert refused.returncode == 2
        assert "scripts/s3 start" in refused.stderr
