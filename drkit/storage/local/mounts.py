"""Mounts, as the kernel lists them in /proc/self/mountinfo (see proc(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

IN_MEMORY = frozenset({"tmpfs", "ramfs", "rootfs", "devtmpfs"})
"""Types of file systems that the next start of the machine empties."""

_MOUNTINFO = Path("/proc/self/mountinfo")


class Mount(NamedTuple):
    """One mount. `root` is the directory of its file system that is mounted at `point`; `device` is its `st_dev`."""

    device: int
    root: bytes
    point: bytes
    type: str
    source: bytes


def mounts_here() -> list[Mount]:
    """The mounts that this process sees. Raises OSError where the kernel does not tell."""
    return parse_mounts(_MOUNTINFO.read_bytes())


def mount_of(path: bytes, mounts: Sequence[Mount]) -> Mount | None:
    """The innermost mount on the way to a path without links; None where none tells."""
    best: Mount | None = None
    for mount in mounts:
        inside = mount.point == b"/" or path == mount.point or path.startswith(mount.point + b"/")
        if inside and (best is None or len(mount.point) >= len(best.point)):  # the later of two hides the earlier
            best = mount
    return best


def file_system_type(path: Path) -> str | None:
    """Return the type of the file system that holds a path, as the kernel names it: ext4, nfs4, fuse.sshfs."""
    mount = mount_of(os.fsencode(path.resolve()), mounts_here())
    return mount.type if mount is not None else None


def parse_mounts(text: bytes) -> list[Mount]:
    """Return the mounts in the order of the list: of several at one point, the last hides the others.

    Raises ValueError for a line that does not tell a mount.
    """
    return [_mount(line) for line in text.split(b"\n") if line]  # the kernel escapes no other line end


def _mount(line: bytes) -> Mount:
    about, separator, there = line.partition(b" - ")
    fields, file_system = about.split(b" "), there.split(b" ")
    if not separator or len(fields) < 6 or len(file_system) < 2:
        raise ValueError(f"{line!r} is not a mount")
    major, _, minor = fields[2].partition(b":")
    root, point, source = map(_unescaped, (fields[3], fields[4], file_system[1]))
    return Mount(os.makedev(int(major), int(minor)), root, point, file_system[0].decode("ascii", "replace"), source)


def _unescaped(field: bytes) -> bytes:
    """The kernel writes a blank, tab, newline or backslash in octal."""
    return re.sub(rb"\\([0-7]{3})", lambda escape: bytes([int(escape[1], 8)]), field)
