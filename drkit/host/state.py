"""Where this host keeps what must outlive a run, and what is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from drkit.events import LOGGED, Events
from drkit.host.container_locks import ContainerLocks
from drkit.host.known_helpers import KnownHelpers
from drkit.host.restore_journal import RestoreJournal
from drkit.host.restored_copies import RestoredCopies
from drkit.host.scratch_volumes import ScratchVolumes
from drkit.host.secret import HostSecret
from drkit.host.seen import SeenRepositories
from drkit.settings import directory_from


def state_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return $DRKIT_STATE_DIR, $STATE_DIRECTORY or /var/lib/drkit. Raises UsageError for a relative one."""
    return directory_from(environ, "DRKIT_STATE_DIR", of_systemd="STATE_DIRECTORY") or Path("/var/lib/drkit")


class HostState:
    """What this host keeps, each in a place of its own. Nothing is read or written before it is used.

    The rest is in `Installation`, which needs more to be loaded.
    """

    def __init__(self, directory: Path, events: Events = LOGGED) -> None:
        self.directory = directory
        self.seen = SeenRepositories(directory / "repositories", events)
        self.restores = RestoreJournal(directory / "restores")
        self.copies = RestoredCopies(directory / "copies")
        self.scratch = ScratchVolumes(directory / "scratch")
        self.helpers = KnownHelpers(directory / "helpers", events)
        self.containers = ContainerLocks(directory / "containers")
        self.documents = HostSecret(directory / "documents.key", events)
