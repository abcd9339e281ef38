"""Directories that cannot be entered, or have no end: they fail a backup, unless the policy excludes them."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.fuse import Node, mounted_fuse
from tests.support.lab import Lab, Volume

_LIBC = ctypes.CDLL(None, use_errno=True)
_MS_BIND, _MS_REC, _MNT_DETACH = 4096, 16384, 2


@pytest.fixture
def hostile(lab: Lab) -> Iterator[Volume]:
    """A volume with a mount closed to root, a loop, and a path that is longer than any name may be, below `cache`."""
    volume = lab.volume("hostile", {"kept": b"1", "cache/mnt/x": b"", "cache/loop/x": b"", "mnt/kept": b"2"})
    descriptor = os.open(volume.files / "cache", os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=descriptor)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("deep", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    with ExitStack() as stack:
        stack.enter_context(mounted_fuse(volume.files / "cache" / "mnt", {"secret": Node(b"x")}, closed=True))
        loop = os.fsencode(volume.files / "cache" / "loop")
        assert _LIBC.mount(os.fsencode(volume.files), loop, None, _MS_BIND, None) == 0
        stack.callback(_LIBC.umount2, loop, _MNT_DETACH)
        yield volume
    shutil.rmtree(volume.files / "cache")


@pytest.mark.parametrize(
    ("stock", "excludes"),
    [
        # Also only the three themselves; and in the last, what find cannot be told, so that it enters.
        (False, {"cache/": 4, "cache/**": 5, "cache/mnt/ /cache/loop cache/ddd*": 5, "/c[a]che/ !*.log": 4}),
        (True, {"/cache !*.log": 4, "cache/**": 5}),
    ],
    ids=["full", "stock"],
)
def test_what_is_excluded_fails_nothing(
    lab: Lab, hostile: Volume, stock_alpine_image: str, stock: bool, excludes: dict[str, int]
) -> None:
    helper = {"helper": {"image": stock_alpine_image}} if stock else {}
    lab.init(hostile, **helper)
    said = lab.fails(15, "backup")
    assert f"volume {hostile.name}: find: " in said
    for exclude, files in excludes.items():
        lab.write_policy({"name": hostile.name, "exclude": exclude.split()}, **helper)
        [target] = lab.json("backup")["targets"]
        assert (target["status"], target["files"]) == ("ok", files), exclude


def test_what_is_not_excluded_still_fails(lab: Lab, hostile: Volume) -> None:
    lab.init({"name": hostile.name, "exclude": ["/cache/loop", "cache/ddd*", "mnt/x", "/mnt"]})
    assert "cache/mnt': Permission denied" in lab.fails(15, "backup")
