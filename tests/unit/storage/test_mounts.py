"""Mounts as the kernel lists them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from drkit.storage.local.mounts import Mount, mounts_here, parse_mounts


def test_what_the_kernel_lists() -> None:
    text = (
        rb"36 35 98:0 /mnt1 /a\040b\134\011c rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue"
        b"\n"
        rb"37 35 0:51 / /volume rw - fuse.sshfs me@host:/d\012e rw"
        b"\n"
    )
    assert parse_mounts(text) == [
        Mount(os.makedev(98, 0), b"/mnt1", b"/a b\\\tc", "ext3", b"/dev/root"),
        Mount(os.makedev(0, 51), b"/", b"/volume", "fuse.sshfs", b"me@host:/d\ne"),
    ]
    assert parse_mounts(b"") == []


def test_a_carriage_return_in_a_name_ends_no_line() -> None:
    """The kernel writes it as it is."""
    assert parse_mounts(b"36 35 0:51 / /a\rb rw - ext4 /dev/x\ry rw\n") == [
        Mount(os.makedev(0, 51), b"/", b"/a\rb", "ext4", b"/dev/x\ry")
    ]


def test_the_list_of_this_process() -> None:
    mounts = mounts_here()
    root = next(mount for mount in reversed(mounts) if mount.point == b"/")
    assert root.device == Path("/").stat().st_dev
    told = subprocess.run(["stat", "-f", "-c", "%T", "/proc"], capture_output=True, check=True).stdout.decode().strip()
    assert {mount.type for mount in mounts if mount.point == b"/proc"} == {told}


@pytest.mark.parametrize(
    "line",
    [
        b"36 35 98:0 /mnt1 /mnt2 rw",
        b"36 35 98:0 /mnt1 /mnt2 rw ext3 /dev/root",
        b"36 35 98 /mnt1 /mnt2 rw - ext3 /dev/root rw",
        b"36 35 a:b / / rw - ext3 /dev/root rw",
        b"36 35 - ext3 /dev/root rw",
        b"36 35 98:0 / / rw - ext3",
    ],
)
def test_what_is_no_mount(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"is not a mount|invalid literal"):
        parse_mounts(line)
