"""One holder per container, across processes, however its holder ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drkit.errors import DrkitError, UsageError
from drkit.host.container_locks import ContainerLocks
from tests.conftest import PROJECT

CONTAINER = "ab" * 32
HOLDER = """
import sys
from pathlib import Path
from drkit.host.container_locks import ContainerLocks
with ContainerLocks(Path(sys.argv[1])).held(sys.argv[2], "a drill of shop"):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(directory: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), CONTAINER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(PROJECT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_holder_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    locks = ContainerLocks(tmp_path / "containers")
    with hold(locks._directory) as other:
        with (
            pytest.raises(DrkitError, match=rf"held by process {other.pid} \(a drill of shop\)"),
            locks.held(CONTAINER, "backup"),
        ):
            pass
        with locks.held("cd" * 32, "backup"):
            pass
        other.communicate("")
    with locks.held(CONTAINER, "backup"):
        pass


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    locks = ContainerLocks(tmp_path)
    with hold(tmp_path) as other:
        other.kill()
        other.wait()
        with locks.held(CONTAINER, "backup"):
            pass


def test_the_same_process_holds_it_once(tmp_path: Path) -> None:
    locks = ContainerLocks(tmp_path)
    with locks.held(CONTAINER, "backup"), pytest.raises(DrkitError, match="held by"), locks.held(CONTAINER, "drill"):
        pass


def test_files_are_private_and_no_link_is_followed(tmp_path: Path) -> None:
    locks = ContainerLocks(tmp_path / "containers")
    with locks.held(CONTAINER, "backup"):
        pass
    path = tmp_path / "containers" / CONTAINER
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.unlink()
    victim = tmp_path / "victim"
    victim.write_text("kept")
    path.symlink_to(victim)
    with pytest.raises(DrkitError, match="cannot write"), locks.held(CONTAINER, "backup"):
        pass
    assert victim.read_text() == "kept"


@pytest.mark.parametrize("name", ["", "shop-db-1", "../x", "AB" * 32, "ab" * 31])
def test_what_is_not_an_id_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError), ContainerLocks(tmp_path).held(name, "backup"):
        pass


@pytest.mark.parametrize("note", [b"", b"\xff", b"[]", b'{"pid": 1e999, "purpose": ""}', b"[" * 5000])
def test_a_note_that_cannot_be_read_is_that_of_another_drkit(tmp_path: Path, note: bytes) -> None:
    with ContainerLocks(tmp_path).held(CONTAINER, "backup"):
        (tmp_path / CONTAINER).write_bytes(note)
        with (
            pytest.raises(DrkitError, match="is held by another drkit"),
            ContainerLocks(tmp_path).held(CONTAINER, "drill"),
        ):
            pass


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    """As on a full disk: the lock is had, and its note cannot be written."""
    os.mkfifo(tmp_path / CONTAINER)
    with (
        pytest.raises(DrkitError, match=r"cannot write .*: invalid argument"),
        ContainerLocks(tmp_path).held(CONTAINER, "x"),
    ):
        pass
