"""The labels by which drkit recognises what it created in the engine."""

from __future__ import annotations

LABEL_HELPER = "drkit.helper"
"""On helper containers and their scratch volumes; the value is the id of the run."""

LABEL_EXCHANGE = "drkit.helper.exchange"
"""On helper containers; the value is the name of the directory through which they talk to their drkit."""

LABEL_HELPER_IMAGE = "drkit.helper.image"
LABEL_HELPER_SOURCE = "drkit.helper.source"
LABEL_HELPER_TAR = "drkit.helper.tar"

LABEL_RESTORE = "drkit.restore"
"""On volumes that a restore created; the value is the id of the restore."""
