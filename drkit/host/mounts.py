"""Mounts, as the kernel lists them in /proc/self/mountinfo (see proc(5))."""

from __future__ import annotations

import os
import re
from typing import NamedTuple


class Mount(NamedTuple):
    """One mount. `root` is the directory of its file system that is mounted at `point`; `device` is its `st_dev`."""

    device: int
    root: bytes
    point: bytes
    type: str
    source: bytes


def parse_mounts(text: bytes) -> list[Mount]:
    """Return the mounts in the order of the list: of several at one point, the last hides the others.

    Raises ValueError for a line that does not tell a mount.
    """
    return [_mount(line) for line in text.splitlines() if line]


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
