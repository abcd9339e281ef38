"""Where a path leads, however it is spelled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drkit.host.spots import Spot, same_directory, spot_of
from drkit.storage.local.mounts import Mount, mounts_here


def mount(point: str, root: str = "/", device: int = 1, kind: str = "ext4") -> Mount:
    return Mount(device, os.fsencode(root), os.fsencode(point), kind, b"x")


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ([mount("/")], Spot(1, b"/nowhere/a/b", "ext4")),
        ([mount("/", "/host")], Spot(1, b"/host/nowhere/a/b", "ext4")),
        ([mount("/"), mount("/nowhere/a", "/x", 2)], Spot(2, b"/x/b", "ext4")),
        ([mount("/"), mount("/nowhere/a/b", "/x", 2)], Spot(2, b"/x", "ext4")),
        ([mount("/"), mount("/nowhere/a/b", "/", 2)], Spot(2, b"/", "ext4")),
        ([mount("/"), mount("/nowhere/a/bc", "/x", 2)], Spot(1, b"/nowhere/a/b", "ext4")),
        ([mount("/nowhere/a", device=2), mount("/"), mount("/nowhere/a", device=3)], Spot(3, b"/b", "ext4")),
        ([mount("/elsewhere")], None),
        ([], None),
    ],
)
def test_the_innermost_mount_tells(mounts: list[Mount], expected: Spot | None) -> None:
    assert spot_of(Path("/nowhere/a/b"), mounts) == expected


@pytest.mark.parametrize(
    ("one", "other", "below"),
    [
        ("/a/b", "/a", b"b"),
        ("/a/b/c", "/a", b"b/c"),
        ("/a", "/a", b""),
        ("/", "/", b""),
        ("/a", "/", b"a"),
        ("/ab", "/a", None),
        ("/a", "/a/b", None),
        ("/", "/a", None),
    ],
)
def test_below(one: str, other: str, below: bytes | None) -> None:
    assert Spot(1, os.fsencode(one), "").below(Spot(1, os.fsencode(other), "")) == below
    assert Spot(2, os.fsencode(one), "").below(Spot(1, os.fsencode(other), "")) is None


def test_the_kernel_tells_where_this_file_lies(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    real, link = (spot_of(tmp_path / name, mounts_here()) for name in ("a/b", "link/b"))
    assert real == link
    assert real is not None
    assert real.below(spot_of(tmp_path, mounts_here()) or real) == b"a/b"


def test_inodes_tell_too(tmp_path: Path) -> None:
    (tmp_path / "a" / ".hidden").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    missing = tmp_path / "missing"
    assert same_directory(tmp_path / "link" / ".hidden" / "new", [missing, tmp_path / "a"]) == (
        tmp_path / "a",
        b".hidden/new",
    )
    assert same_directory(tmp_path / "a", [tmp_path / "link"]) == (tmp_path / "link", b"")
    assert same_directory(tmp_path, [tmp_path / "a", missing]) is None
