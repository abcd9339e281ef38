"""What metadata proves, by the type of the file system that tells it.

Of the file systems of this kernel, those on disks move a file's times with its content, and those in memory do not move
them for a store through mmap. What another program or machine tells (FUSE, network, 9p), or nobody knows, proves
nothing: there are files with content and without blocks, times that never move, and inode numbers that collide.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from drkit.engine.helper.launch import VOLUME_MOUNT
from drkit.storage.local.mounts import Mount

_ON_DISK = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs"})
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
"""Each mount of them holds files of its own, which are gone with it."""
PASSING = IN_MEMORY | {"overlay", "nsfs", "proc", "sysfs", "devtmpfs", "cgroup", "cgroup2", "mqueue", "devpts"}
"""What containers, programs and the kernel mount and take away: none of these is a disk that should be there."""


class Proof(IntEnum):
    """What the metadata of a file proves. Each includes those before it."""

    NOTHING = 0
    HOLES_AND_LINKS = 1
    CONTENT = 2
    """Equal times, size and inode prove equal content."""


class FileSystems:
    """What the metadata of each path in a volume proves, from the mounts that a helper sees."""

    def __init__(self, mounts: Sequence[Mount]) -> None:
        root = VOLUME_MOUNT.encode()
        self.root = min((_proof(mount) for mount in mounts if mount.point == root), default=Proof.NOTHING)
        self._below = [
            (mount.point.removeprefix(root + b"/"), _proof(mount))
            for mount in mounts
            if mount.point.startswith(root + b"/") and _proof(mount) < self.root
        ]

    @property
    def least(self) -> Proof:
        return min((proof for _, proof in self._below), default=self.root)

    def proof(self, path: bytes) -> Proof:
        """Return the least of what all mounts on the way to a path prove: which of them covers which does not matter.

        A btrfs subvolume is part of its file system, and no mount.
        """
        proof = self.root
        for point, there in self._below:
            if there < proof and (path == point or path.startswith(point + b"/")):
                proof = there
        return proof


def _proof(mount: Mount) -> Proof:
    if mount.type in _ON_DISK:
        return Proof.CONTENT
    return Proof.HOLES_AND_LINKS if mount.type in IN_MEMORY else Proof.NOTHING
