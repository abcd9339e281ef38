"""Whether identities still open a repository: every key, and a piece of data under each key."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from drkit.errors import AccessDenied, DrkitError, IntegrityError, ObjectNotFound
from drkit.repository.chunk_finder import ChunkFinder
from drkit.repository.format.packs import pack_key
from drkit.repository.holders.custody import data_keys
from drkit.repository.keys.wraps import TREE_KEY_ID
from drkit.repository.repository import Repository


class OpenedKeys(NamedTuple):
    """How many keys were opened, including the meta key, and how many data chunks were read and compared."""

    keys: int
    chunks: int


def open_every_key(repository: Repository) -> OpenedKeys:
    """Open every data key, and read one chunk, chosen at random, under each key that seals any.

    The meta key was opened when the repository was opened. All keys are tried before this raises: AccessDenied for keys
    that these identities do not open, IntegrityError for damage.
    """
    wrapped = data_keys(repository)
    samples = _samples(repository, wrapped)
    key_ids = sorted({*wrapped, *samples} - {TREE_KEY_ID})
    failed: list[DrkitError] = []
    chunks = 0
    for key_id in key_ids:
        try:
            repository.keys.get(key_id)
            if key_id in samples:
                _read(repository, samples[key_id])
                chunks += 1
        except (AccessDenied, IntegrityError, ObjectNotFound) as error:
            failed.append(error)
    if failed:
        worst = next((error for error in failed if isinstance(error, IntegrityError)), failed[0])
        message = f"{len(failed)} of {len(key_ids) + 1} keys do not open data: {worst.message}"
        if isinstance(worst, IntegrityError):
            raise IntegrityError(message, hint="Run drkit check.", object_name=worst.object_name)
        if isinstance(worst, ObjectNotFound):
            raise IntegrityError(message, hint="Run drkit check.")
        raise AccessDenied(message, hint=worst.hint)
    return OpenedKeys(len(key_ids) + 1, chunks)


def _samples(repository: Repository, wrapped: Collection[bytes]) -> dict[bytes, bytes]:
    """One chunk under each key id. What the index says of a key that nobody has is first held against the packs."""
    while True:
        samples = repository.index.samples()
        unknown = [samples[key_id] for key_id in samples.keys() - {*wrapped, TREE_KEY_ID}]
        packs = {place.pack_id for chunk_id in unknown if (place := repository.index.get(chunk_id)) is not None}
        if not [pack_id for pack_id in packs if repository.correct(pack_id)]:
            return samples


def _read(repository: Repository, chunk_id: bytes) -> None:
    data = ChunkFinder(repository).read(chunk_id)
    try:
        repository.chunks.check_name(chunk_id, data, tree=False)
    except IntegrityError as error:
        location = repository.index.get(chunk_id)
        assert location is not None  # it was read from there
        key = pack_key(location.pack_id)
        raise IntegrityError(f"{key}: {error.message}", object_name=key) from None
