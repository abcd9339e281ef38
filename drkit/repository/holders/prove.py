"""Proving that identities open a repository: every key, and a piece of data under each."""

from __future__ import annotations

from typing import NamedTuple

from drkit.errors import AccessDenied, DrkitError, IntegrityError, ObjectNotFound
from drkit.repository.format.packs import pack_key
from drkit.repository.holders.custody import data_keys
from drkit.repository.keys.wraps import TREE_KEY_ID
from drkit.repository.repository import Repository


class ProvenKeys(NamedTuple):
    """How many keys were opened, the meta key among them, and how many chunks of data were read and compared."""

    keys: int
    chunks: int


def prove_keys(repository: Repository) -> ProvenKeys:
    """Open every data key and read one chunk, chosen at random, under each that seals any.

    The meta key was opened when the repository was. All keys are tried before the first failure is told. Raises
    AccessDenied for keys that are not for these identities, IntegrityError for damage.
    """
    samples = repository.index.samples()
    key_ids = sorted({*data_keys(repository), *samples} - {TREE_KEY_ID})
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
    return ProvenKeys(len(key_ids) + 1, chunks)


def _read(repository: Repository, chunk_id: bytes) -> None:
    location = repository.index.get(chunk_id)
    assert location is not None  # it came from this index
    key = pack_key(location.pack_id)
    sealed = repository.storage.get(key, location.offset, location.sealed_size)
    try:
        data = repository.chunks.open(chunk_id, sealed, location.key_id, location.size)
    except IntegrityError as error:
        raise IntegrityError(f"{key}: {error.message}", object_name=key) from None
    if repository.chunks.chunk_id(data, tree=False) != chunk_id:
        raise IntegrityError(f"{key}: chunk {chunk_id.hex()} is not what it is named after", object_name=key)
