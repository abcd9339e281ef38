"""Whether what this host keeps will outlive it: in a container without a volume it will not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from drkit.host.name import inside_container
from drkit.storage.local.mounts import IN_MEMORY, Mount, mounts_here


def is_throwaway(directory: Path) -> bool:
    """Whether we are in a container, and the directory is on its own root file system or in memory."""
    return inside_container() and _is_on_root_or_in_memory(directory, mounts_here)


def _is_on_root_or_in_memory(directory: Path, mounts: Callable[[], Sequence[Mount]]) -> bool:
    there = next(path for path in [directory, *directory.absolute().parents] if path.exists())
    device = there.stat().st_dev
    if device == Path("/").stat().st_dev:
        return True
    return next((mount.type for mount in mounts() if mount.device == device), "") in IN_MEMORY
