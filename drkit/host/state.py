"""Where this host keeps what must outlive a run, and what is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from drkit.events import LOGGED, Events
from drkit.host.container_locks import ContainerLocks
from drkit.host.restore_journal import RestoreJournal
from drkit.host.secret import HostSecret
from drkit.host.seen import SeenRepositories


def state_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return $DRKIT_STATE_DIR, the first path of systemd's $STATE_DIRECTORY, or /var/lib/drkit."""
    of_the_unit = environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(environ.get("DRKIT_STATE_DIR") or of_the_unit or "/var/lib/drkit")


class HostState:
    """What this host keeps, each in a place of its own. Nothing is read or written before it is used.

    The rest is in `Installation`, which needs more to be loaded.
    """

    def __init__(self, directory: Path, events: Events = LOGGED) -> None:
        self.directory = directory
        self.seen = SeenRepositories(directory / "repositories", events)
        self.restores = RestoreJournal(directory / "restores")
        self.containers = ContainerLocks(directory / "containers")
        self.documents = HostSecret(directory / "documents.key", events)
