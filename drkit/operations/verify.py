"""`drkit verify`: read the data back and compare. `check` looks at the structure; this proves the content."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace

from drkit.catalog.find import find_snapshot
from drkit.errors import IntegrityError
from drkit.events import LOGGED, Events
from drkit.operations.context import Context
from drkit.operations.remembered import remembered
from drkit.pipeline.verify import MemberVerifier
from drkit.repository.absence import Expected
from drkit.repository.check import Report, check_repository
from drkit.repository.format.packs import pack_key
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.holders.custody import require_identity
from drkit.repository.keys.wraps import TREE_KEY_ID
from drkit.repository.pack_cache import PackCache
from drkit.repository.pack_reader import PacksRead, WholePack, read_packs, stored_packs
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository


def verify(
    context: Context, reference: str | None = None, *, percent: float | None = None, seed: str | None = None
) -> Report:
    """Read back one snapshot, all of them, or `percent` of the packs, chosen by `seed`, or by chance without one."""
    repository = context.uncached_repository
    known = remembered(context, repository)
    if percent is not None:
        seed = seed or secrets.token_hex(4)
        context.events.note(f"reading about {percent:g}% of the packs, seed {seed}")
        report = verify_subset(repository, percent, seed, context.events, known)
    else:
        chosen = [find_snapshot(repository, reference)] if reference else None
        report = verify_repository(repository, chosen, context.events, known)
    context.warn_of_newer()
    return replace(report, seed=seed, warnings=context.warnings)


def verify_repository(
    repository: Repository,
    snapshots: Iterable[Snapshot] | None,
    events: Events = LOGGED,
    known: Sequence[Expected] = (),
) -> Report:
    """Compare every member of the snapshots with its recorded digest, and check the structure. Needs the identity.

    `None` stands for all snapshots: then every pack is read whole too, and compared with the hash that it is named
    after. Holds about 200 MB at most: packs that are being read, and decoded chunks.
    """
    require_identity(repository, "verifying data")
    if snapshots is not None:
        members = _verify_members(repository, snapshots, ChunkReader(repository), events)
        return _with_structure(repository, members, known)
    packs = PackCache(repository.storage, repository.objects)
    records = (record for record in repository.snapshots() if isinstance(record, Snapshot))
    members = _verify_members(repository, records, ChunkReader(repository, packs.get), events)
    packs.read_rest(stored_packs(repository.storage), events)
    return _with_structure(repository, members, known, packs.read)


def _verify_members(
    repository: Repository, snapshots: Iterable[Snapshot], reader: ChunkReader, events: Events
) -> Report:
    with reader:
        verifier = MemberVerifier(reader, repository.meta.member, events)
        for snapshot in snapshots:
            verifier.verify(snapshot)
    return verifier.report


def _with_structure(
    repository: Repository, members: Report, known: Sequence[Expected], read: PacksRead | None = None
) -> Report:
    """Check the structure, and add what is wrong with members."""
    report = check_repository(repository, read, known)
    report.include(members)
    return report


def verify_subset(
    repository: Repository, percent: float, seed: str, events: Events = LOGGED, known: Sequence[Expected] = ()
) -> Report:
    """Check the structure; of the packs, read about `percent` whole, open every chunk in them and compare its name.

    The same seed chooses the same packs. Needs the identity.
    """
    read = PacksRead()
    chosen = [pack_id for pack_id in stored_packs(repository.storage) if _in_subset(pack_id, percent, seed)]
    for pack in read_packs(repository.storage, repository.objects, chosen):
        read.add(pack if pack.damage else pack._replace(damage=_damaged_chunk(repository, pack)))
        events.progress("verify", len(pack.body))
    return check_repository(repository, read, known)


def _in_subset(pack_id: bytes, percent: float, seed: str) -> bool:
    number = int.from_bytes(hashlib.sha256(seed.encode() + pack_id).digest()[:8], "big")
    return number < percent / 100 * 2**64


def _damaged_chunk(repository: Repository, pack: WholePack) -> IntegrityError | None:
    """Open every chunk in a pack and compare it with its name; return the first damage."""
    body = memoryview(pack.body)
    for entry in pack.entries:
        sealed = body[entry.offset : entry.offset + entry.sealed_size]
        try:
            data = repository.chunks.open(entry.chunk_id, sealed, entry.key_id, entry.size)
            repository.chunks.check_name(entry.chunk_id, data, tree=entry.key_id == TREE_KEY_ID)
        except IntegrityError as error:
            # If the error names an object, that is a damaged key.
            return error if error.object_name else IntegrityError(error.message, object_name=pack_key(pack.pack_id))
    return None
