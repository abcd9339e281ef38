"""A secret of this host, for what must be recognised again here and be meaningless to anybody else."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from drkit.errors import DrkitError, reason
from drkit.events import LOGGED, Events
from drkit.host.private_file import STATE_HINT, replace
from drkit.repository.format.digest import keyed_digest

_SIZE = 32


class HostSecret:
    """32 random bytes in a file of mode 0600, made when they are first needed."""

    def __init__(self, path: Path, events: Events = LOGGED) -> None:
        self._path = path
        self._events = events

    def salt(self, repository_id: bytes) -> bytes:
        """Return 32 bytes, the same for a repository as long as the file stays. Nobody can compute them without it.

        Where it cannot be read or written, that is a warning: all that differs is that nothing is recognised again.
        """
        return keyed_digest(self._secret, repository_id)

    @cached_property
    def _secret(self) -> bytes:
        try:
            return self._read()
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            why = reason(error) if isinstance(error, OSError) else "it is damaged"
            self._events.warn(
                f"cannot use {self._path}: {why}. Another secret takes its place, so documents are stored once more",
                hint="Find out what changed the file: only drkit should.",
            )
        fresh = os.urandom(_SIZE)
        try:
            replace(self._path, fresh.hex() + "\n")
            return self._read()  # of two runs that make it at once, both use the one that stays
        except (DrkitError, OSError, ValueError) as error:
            self._events.warn(
                f"{error}: documents are stored again by every backup",
                hint=STATE_HINT,
            )
            return fresh

    def _read(self) -> bytes:
        secret = bytes.fromhex(self._path.read_text(encoding="ascii"))
        if len(secret) != _SIZE:
            raise ValueError(f"{self._path} does not hold {_SIZE} bytes")
        return secret
