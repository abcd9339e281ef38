"""Sealed metadata objects, from index to proof. All have one key; kind and name are authenticated.

Layout: AES-256-GCM (see sealing.py) of one zstd frame; associated data `drkit 1 <kind>\\0<repository id><name>`.
"""

from __future__ import annotations

from drkit.errors import IntegrityError
from drkit.repository.format.compression import compress, decompress
from drkit.repository.format.limits import SEALED, require_payload
from drkit.repository.format.sealing import Cipher


class ObjectSealer:
    """Seals and opens metadata objects of one repository, none larger than its kind may be (see limits.py)."""

    def __init__(self, key: bytes, repository_id: bytes) -> None:
        self._cipher = Cipher(key)
        self.repository_id = repository_id

    def seal(self, kind: str, name: bytes, payload: bytes) -> bytes:
        """Return the sealed form of a payload. Raises RepositoryError for one that readers would refuse."""
        require_payload(kind, len(payload))
        return bytes(self._cipher.seal(compress(payload), self._associated(kind, name)))

    def open(self, kind: str, name: bytes, sealed: bytes, *, source: str) -> bytes:
        """Return the payload. Raises IntegrityError naming `source`, the storage key the bytes came from."""
        try:
            frame = self._cipher.open(sealed, self._associated(kind, name))
            return decompress(frame, limit=SEALED[kind].payload)
        except IntegrityError as error:
            raise IntegrityError(f"{source}: {error.message}", hint="Run drkit check.", object_name=source) from None

    def _associated(self, kind: str, name: bytes) -> bytes:
        return b"drkit 1 " + kind.encode() + b"\0" + self.repository_id + name
