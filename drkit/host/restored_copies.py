"""Which volumes this host restored beside their originals: copies that no pattern of a policy means.

The label on such a volume proves nothing by itself: whoever writes a compose file can put it on a production volume.
"""

from __future__ import annotations

from pathlib import Path

from drkit.host.private_file import replace


class RestoredCopies:
    """One file per volume, with the id of the restore that made it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def note(self, volume: str, restore_id: str) -> None:
        """Raises DrkitError where the directory cannot be written."""
        replace(self._directory / volume, restore_id)

    def made_by(self, volume: str) -> str | None:
        """Return the id of the restore that made a copy of this name; None where that is not known."""
        try:
            return (self._directory / volume).read_text(encoding="ascii") or None
        except (OSError, UnicodeDecodeError):
            return None
