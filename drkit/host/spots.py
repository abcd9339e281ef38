"""Where on a file system a path leads, however it is spelled: through links, bind mounts and other mounts of the same.

Two paths lead into each other if one lies below the other on one file system. Neither text nor inode alone tells that:
a directory that is mounted somewhere else has other parents there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from drkit.storage.local.mounts import Mount, mount_of


class Spot(NamedTuple):
    """A directory by its file system and its path in that, `type` being the file system's. It need not exist yet."""

    device: int
    path: bytes
    type: str

    def below(self, other: Spot) -> bytes | None:
        """The path of this from `other`, empty for the same; None where it is not below it."""
        if self.device != other.device:
            return None
        base = other.path.rstrip(b"/")
        if self.path == other.path or self.path.rstrip(b"/") == base:
            return b""
        return self.path[len(base) + 1 :] if self.path.startswith(base + b"/") else None


def spot_of(path: Path, mounts: Sequence[Mount]) -> Spot | None:
    """Where a path leads now; a block device leads to the root of the file system on it. None where no mount tells."""
    resolved = Path(os.path.realpath(path))
    real = os.fsencode(resolved)
    try:
        status = resolved.stat()
        if stat.S_ISBLK(status.st_mode):
            return Spot(status.st_rdev, b"/", "")
    except OSError:
        pass  # it is not there yet, or cannot be looked at: its mount tells all the same
    best = mount_of(real, mounts)
    if best is None:
        return None
    rest = real[len(best.point.rstrip(b"/")) :]
    return Spot(best.device, (best.root.rstrip(b"/") + rest) or b"/", best.type)


def backing_file(device: int) -> Path | None:
    """The file that a loop device shows as a disk; None for any other device, and for a file that was removed."""
    place = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/loop/backing_file")
    try:
        file = Path(os.fsdecode(place.read_bytes().removesuffix(b"\n")))
    except OSError:
        return None
    return file if file.exists() else None


def same_directory(path: Path, others: Sequence[Path]) -> tuple[Path, bytes] | None:
    """The first of `others` that is `path` or above it, by device and inode, and the path from there; None if none is.

    This finds what the list of mounts does not tell, such as two mounts of one export.
    """
    wanted: dict[tuple[int, int], Path] = {}
    for other in others:
        try:
            status = other.stat()
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode):
            wanted.setdefault((status.st_dev, status.st_ino), other)
    real = Path(os.path.realpath(path))
    for directory in (real, *real.parents):
        try:
            status = directory.stat()
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in wanted:
            return wanted[status.st_dev, status.st_ino], os.fsencode(real)[len(os.fsencode(directory)) :].lstrip(b"/")
    return None
