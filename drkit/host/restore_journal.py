"""Which restores are under way, so that one interrupted by SIGKILL or a power cut is recognised later.

A volume's labels cannot be changed later, so they cannot say whether its restore was finished. A file can.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from drkit.errors import DrkitError, reason
from drkit.host.private_file import STATE_HINT, open_lock
from drkit.storage.local.files import sync_directory

_MAX_NOTE = 1 << 20


@dataclass(frozen=True)
class RestoreNote:
    """A restore, as far as a later run needs it to tell what is this restore's in the volume.

    `snapshot` is empty in a note of an earlier version, and so is all but the id.
    """

    restore_id: str
    helper: str = ""
    """The id of the image of its helpers."""
    snapshot: str = ""
    target: str = ""
    paths: tuple[str, ...] = ()
    """The patterns that chose what to restore; none for everything."""


class RestoreJournal:
    """One file per volume that describes the restore, from before the volume is created until it is verified.

    A running restore holds its file by `flock`: a file that nobody holds was left by an interrupted restore.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, int] = {}

    def begin(self, volume: str, note: RestoreNote) -> None:
        """Note a restore, durably. Raises DrkitError for one that runs, and when the directory cannot be written."""
        descriptor = open_lock(self._directory / volume)
        with self._explained("write", volume):
            try:
                _hold(descriptor, volume)
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps(asdict(note)).encode("ascii"))
                os.fsync(descriptor)
                sync_directory(self._directory)
            except BaseException:
                os.close(descriptor)
                raise
        self._held[volume] = descriptor

    def unfinished(self, volume: str) -> RestoreNote | None:
        """Return the note of an interrupted restore into `volume`, if any. Raises DrkitError for one that runs."""
        with self._explained("read", volume), suppress(FileNotFoundError):
            descriptor = os.open(self._directory / volume, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _hold(descriptor, volume)
                return _read(os.read(descriptor, _MAX_NOTE))
            finally:
                os.close(descriptor)
        return None

    def has_begun(self, volume: str, restore_id: str) -> bool:
        """Whether this restore into `volume` is noted: it is running, or was interrupted."""
        with self._explained("read", volume), suppress(FileNotFoundError):
            note = _read((self._directory / volume).read_bytes())
            return note is not None and note.restore_id == restore_id
        return False

    def end(self, volume: str) -> None:
        """Note that this restore has ended, or that nothing is left of it."""
        with self._explained("remove", volume):
            (self._directory / volume).unlink(missing_ok=True)
            sync_directory(self._directory)
            os.close(self._held.pop(volume))

    @contextmanager
    def _explained(self, action: str, volume: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DrkitError(
                f"cannot {action} {self._directory / volume}: {reason(error)}",
                hint=STATE_HINT,
            ) from error


def _read(data: bytes) -> RestoreNote | None:
    """Return None for what was not written to its end: no volume was created then."""
    text = data.decode("ascii", "replace")
    if re.fullmatch(r"[0-9a-f]{16}", text):
        return RestoreNote(text)
    try:
        note = RestoreNote(**json.loads(text))
        return RestoreNote(note.restore_id, note.helper, note.snapshot, note.target, tuple(note.paths))
    except (ValueError, TypeError, RecursionError):
        return None


def _hold(descriptor: int, volume: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DrkitError(
            f"another restore into volume {volume} is running", hint="Wait for its end, or restore with --to-volume."
        ) from None
