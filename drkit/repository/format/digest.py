"""Keyed BLAKE3: names of chunks and digests of members. Without the key nobody can confirm a guess."""

from __future__ import annotations

import blake3

DIGEST_SIZE = 32
Hasher = blake3.blake3


def keyed_digest(key: bytes, data: bytes | bytearray | memoryview) -> bytes:
    """Return the 32-byte keyed BLAKE3 of `data`; `key` is 32 bytes."""
    return blake3.blake3(data, key=key).digest()


def keyed_hasher(key: bytes) -> Hasher:
    """Return an incremental hasher: `update(data)`, then `digest()`."""
    return blake3.blake3(key=key)
