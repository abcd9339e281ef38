"""What makes the capture of a volume doubtful, whatever comes of reading it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drkit.engine import containers
from drkit.engine.client import Engine
from drkit.engine.labels import LABEL_HELPER, LABEL_RESTORE
from drkit.errors import DrkitError
from drkit.host.restore_journal import RestoreJournal
from drkit.pipeline.filesystems import IN_MEMORY
from drkit.repository.format.snapshot import Target

_UNUSED = (
    "it is in memory, and no running container uses it: the engine gives every helper an empty one then. Back it up "
    "while it is used, or leave it out of the policy"
)


def doubts_before(
    engine: Engine, journal: RestoreJournal, volume: Mapping[str, Any], helper_image: str
) -> Iterator[str]:
    """Yield why what a helper is about to read is not what the volume should hold. `volume` is its inspect document.

    Ask before the helper is told to begin: what starts to use the volume later gets what the helper sees.
    """
    name = str(volume["Name"])
    restore_id = str((volume.get("Labels") or {}).get(LABEL_RESTORE) or "")
    try:
        unfinished = restore_id != "" and journal.has_begun(name, restore_id)
    except DrkitError as error:
        yield f"whether a restore into it was finished cannot be told: {error.message}"
    else:
        if unfinished:
            yield (
                "a restore into it is running or was interrupted, so it may hold only a part: wait for its end, run "
                f"it again, or remove the volume: docker volume rm {name}"
            )
    if volume.get("Driver") == "local" and (volume.get("Options") or {}).get("type") in IN_MEMORY:
        yield from _doubts_in_memory(engine, name, helper_image)


def doubts_after(engine: Engine, target: Target, volume: Mapping[str, Any], helper_image: str) -> Iterator[str]:
    """Yield what only the scan could tell: that the driver of a plugin keeps the volume in memory."""
    if volume.get("Driver") != "local" and target.filesystem is not None and target.filesystem.type in IN_MEMORY:
        yield from _doubts_in_memory(engine, target.name, helper_image)


def _doubts_in_memory(engine: Engine, name: str, helper_image: str) -> Iterator[str]:
    """As long as a container has it mounted, a helper gets the same mount (measured on Engine 20.10; paused counts)."""
    users = [
        container
        for container in containers.find_users(engine, name, status=("running", "paused"))
        # Helpers bring no content. A label alone would not do: anybody can set one.
        if not (LABEL_HELPER in (container.get("Labels") or {}) and container.get("ImageID") == helper_image)
    ]
    if not users:
        yield _UNUSED
