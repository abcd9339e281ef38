"""The labels on what drkit created in the engine.

Anybody can put a label on anything, so a label alone never decides what is hidden, run or removed: together with what
this host's state knows it does.
"""

from __future__ import annotations

LABEL_HELPER = "drkit.helper"
"""On helper containers and their scratch volumes; the value is the id of the run."""

LABEL_EXCHANGE = "drkit.helper.exchange"
"""On helper containers; the value is the name of the directory through which they talk to their drkit."""

LABEL_HELPER_IMAGE = "drkit.helper.image"
"""On helper images, for people who list them: drkit decides nothing by it. The value is the recipe."""

LABEL_RESTORE = "drkit.restore"
"""On volumes that a restore created; the value is the id of the restore."""
