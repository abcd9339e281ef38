"""Files that drkit writes for its user: private, whole, and in place of nothing that is somebody else's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drkit.errors import DrkitError, UsageError
from drkit.host.private_file import new_file, replace, require_new, write_new


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        write_new(tmp_path / "a/b/secret", "x")
        write_new(tmp_path / "a/b/shared", "x", 0o644)
        replace(tmp_path / "c/d/state", "x")
    modes = {str(path.relative_to(tmp_path)): oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*")}
    assert modes == {
        **dict.fromkeys(["a", "a/b", "c", "c/d"], "0o700"),
        "a/b/secret": "0o600",
        "a/b/shared": "0o644",
        "c/d/state": "0o600",
    }


def test_nothing_is_there_until_it_is_whole_and_nobody_knows_the_name(tmp_path: Path) -> None:
    names = set()
    for number in range(2):
        with new_file(tmp_path / f"out-{number}") as file:
            file.write(b"half")
            file.flush()
            [unfinished] = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
            assert not (tmp_path / f"out-{number}").exists()
            assert stat.S_IMODE(unfinished.stat().st_mode) == 0o600
            names.add(unfinished.name)
    assert len(names) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-0", "out-1"]


@pytest.mark.parametrize("there", ["file", "directory", "link to a file", "link to nothing", "fifo"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_is_there_is_left_as_it_is(tmp_path: Path, there: str, when: str) -> None:
    path, victim = tmp_path / "out", tmp_path / "victim"
    victim.write_bytes(b"production")

    def place() -> None:
        match there:
            case "file":
                path.write_bytes(b"somebody's")
            case "directory":
                path.mkdir()
            case "link to a file":
                path.symlink_to(victim)
            case "link to nothing":
                path.symlink_to(tmp_path / "missing")
            case "fifo":
                os.mkfifo(path)

    def write() -> None:
        with new_file(path) as file:
            file.write(b"ours")
            if when == "meanwhile":
                place()

    if when == "before":
        place()
        with pytest.raises(UsageError, match="exists"):
            require_new(path)
    before = path.lstat().st_ino if when == "before" else None
    with pytest.raises(DrkitError, match=r"exists|appeared"):
        write()
    assert before in (None, path.lstat().st_ino)
    assert victim.read_bytes() == b"production"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out", "victim"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_file(tmp_path / "out") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    write_new(path, "whole")
    assert path.read_text() == "whole"


def test_a_disk_that_is_full_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(DrkitError, match=r"cannot write .*/no/out: no such file or directory"),
        new_file(tmp_path / "no/out"),
    ):
        raise AssertionError("the block must not begin")
