"""Whether what this host keeps will outlive it: in a container without a volume it will not."""

from __future__ import annotations

from pathlib import Path

from drkit.host.mounts import parse_mounts
from drkit.host.name import inside_container
from drkit.storage.local.files import IN_MEMORY

_MOUNTS = Path("/proc/self/mountinfo")


def is_throwaway(directory: Path) -> bool:
    """Whether we are in a container, and the directory is on its own root file system or in memory."""
    return inside_container() and _is_on_root_or_tmpfs(directory, _MOUNTS)


def _is_on_root_or_tmpfs(directory: Path, mounts: Path) -> bool:
    there = next(path for path in [directory, *directory.absolute().parents] if path.exists())
    device = there.stat().st_dev
    return device == Path("/").stat().st_dev or _file_system(device, mounts) in IN_MEMORY


def _file_system(device: int, mounts: Path) -> str:
    """Return the type of a mounted file system as the kernel lists it; empty for one that it does not list."""
    return next((mount.type for mount in parse_mounts(mounts.read_bytes()) if mount.device == device), "")
