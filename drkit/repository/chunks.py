"""One chunk: its name, and its sealed form."""

from __future__ import annotations

from drkit.errors import IntegrityError
from drkit.repository.format.compression import Compression, compress, decompress
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.limits import MAX_CHUNK_SIZE
from drkit.repository.format.sealing import Cipher
from drkit.repository.keys.wraps import KeyRing, MetaKeys


class ChunkSealer:
    """Names, seals and opens chunks of one repository. Safe to use from several threads."""

    def __init__(self, meta: MetaKeys, keys: KeyRing, repository_id: bytes) -> None:
        self._meta = meta
        self._keys = keys
        self._repository_id = repository_id
        self._ciphers: dict[bytes, Cipher] = {}

    def chunk_id(self, data: bytes | memoryview, *, tree: bool) -> bytes:
        """Name a chunk by its content. Tree and data chunks have different keys: neither can pass for the other."""
        return keyed_digest(self._meta.tree_id if tree else self._meta.chunk_id, data)

    def check_name(self, chunk_id: bytes, data: bytes, *, tree: bool) -> None:
        """Raise IntegrityError unless this is the content that the chunk was named after."""
        if self.chunk_id(data, tree=tree) != chunk_id:
            raise IntegrityError(f"chunk {chunk_id.hex()} holds another content than its name says")

    def seal(
        self, chunk_id: bytes, data: bytes, key_id: bytes, compression: Compression = Compression.DEFAULT
    ) -> bytearray:
        """Compress and seal a chunk, then open it again and compare: what is stored was proven readable."""
        sealed = self._cipher(key_id).seal(compress(data, compression), self._associated(key_id, chunk_id))
        if self.open(chunk_id, sealed, key_id, len(data)) != data:
            raise IntegrityError(
                f"chunk {chunk_id.hex()} does not read back as it was written", hint="Test this host's memory."
            )
        return sealed

    def open(self, chunk_id: bytes, sealed: bytes | bytearray | memoryview, key_id: bytes, size: int) -> bytes:
        """Return the chunk. Raises IntegrityError unless the bytes were sealed under this name and key.

        The content is not compared with the name: see check_name.
        """
        if not 0 < size <= MAX_CHUNK_SIZE:
            raise IntegrityError(f"chunk {chunk_id.hex()} declares {size} bytes")
        data = decompress(self._cipher(key_id).open(sealed, self._associated(key_id, chunk_id)), limit=size)
        if len(data) != size:
            raise IntegrityError(f"chunk {chunk_id.hex()} has {len(data)} bytes, its index entry says {size}")
        return data

    def is_sealed_with(self, key: bytes, key_id: bytes, chunk_id: bytes, sealed: bytes) -> bool:
        """Whether a chunk that was sealed under this key id opens with this key."""
        try:
            Cipher(key).open(sealed, self._associated(key_id, chunk_id))
        except IntegrityError:
            return False
        return True

    def _cipher(self, key_id: bytes) -> Cipher:
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            cipher = self._ciphers[key_id] = Cipher(self._keys.get(key_id))
        return cipher

    def _associated(self, key_id: bytes, chunk_id: bytes) -> bytes:
        return self._repository_id + key_id + chunk_id
