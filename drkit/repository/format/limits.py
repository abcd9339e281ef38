"""How large everything in a repository may be: one table for readers and writers.

Whoever can write to the storage decides how large an object is, and whoever holds the meta key, what its zstd frame
says. So a reader refuses what no writer stores before it takes memory for it, and a writer fails before it stores what
readers refuse. Sizes are in bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from drkit.errors import RepositoryError

_KIB = 1024
_MIB = 1024 * 1024


def sealed_limit(content: int) -> int:
    """How many bytes the sealed form of so many may take: what zstd adds to bytes that do not compress, and the seal.

    zstd adds one byte in 256 and less than a hundred more.
    """
    return content + content // 256 + _KIB


class Limit(NamedTuple):
    """The limit of one kind of sealed object: of its payload, and so of what lies in the storage."""

    payload: int
    cure: str
    """What to do where a writer would need more."""

    @property
    def stored(self) -> int:
        return sealed_limit(self.payload)


_BUG = "This is a bug in drkit: nothing it stores of this kind is that large."

CONFIG = 64 * _KIB
"""`config`, which has about 600 bytes: room for many more fields."""
WRAP = 16 * _KIB
"""An age file with one key or identity in it. One has 300 bytes for X25519, 3 KiB for the largest post-quantum key."""
PACK = 65 * _MIB
"""A pack. Writers close one at 32 MiB; the largest holds one chunk that takes 64 MiB and does not compress."""
MAX_CHUNK_SIZE = 64 * _MIB
"""The content of a chunk. Writers cut at 4 MiB."""
PACK_ENTRIES = 65_536
"""Chunks in one pack of ours, so that its directory, and an index object with one pack too many, stay small."""

SEALED = {
    "recipients": Limit(1 * _MIB, "Name fewer recipients."),  # more than 4,000 of X25519, or 400 post-quantum ones
    "session": Limit(16 * _KIB, "Shorten host in the policy."),
    # 262,144 ids, which is 8 TiB of packs. The space that a storage keeps for a prune on a full disk holds a mark.
    "mark": Limit(8 * _MIB, _BUG),
    # A tree takes 67 bytes for each chunk of about 256 KiB: half of this is enough for 100 million files.
    "snapshot": Limit(64 * _MIB, "Protect less with one policy: make two of it."),
    "index": Limit(16 * _MIB, _BUG),  # 100,000 chunks in packs of their own take 10 MB
    "pack": Limit(8 * _MIB, _BUG),  # PACK_ENTRIES take 4 MB
    "forgot": Limit(4 * _MIB, _BUG),  # stretches of numbers: one for each snapshot that stays between two that went
    "proof": Limit(4 * _MIB, _BUG),  # figures and digests, never data
}
"""By kind of sealed object."""


def require_payload(kind: str, size: int) -> None:
    """Raise RepositoryError for a payload of a sealed object that no reader takes."""
    limit = SEALED[kind]
    require_within(limit.payload, size, f"an object of kind {kind}", hint=limit.cure)


def require_within(limit: int, size: int, what: str, *, hint: str = _BUG) -> None:
    """Raise RepositoryError where something that is about to be stored is larger than readers accept."""
    if size > limit:
        raise RepositoryError(f"{what} with {size} bytes was not stored: readers accept {limit}", hint=hint)
