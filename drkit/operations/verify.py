"""`drkit verify`: read the data back and compare. `check` looks at the structure; this proves the content."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from drkit.catalog.find import find_snapshot
from drkit.errors import CaptureFailed, IntegrityError, ObjectNotFound
from drkit.operations.context import Context
from drkit.pipeline.extract import raw_stream
from drkit.pipeline.selection import Selected
from drkit.pipeline.stream import MemberStream, Progress, iterator_readinto, watched
from drkit.repository.check import Damage, Report, check_pack_bytes_of, check_repository, describe_file
from drkit.repository.format.packs import pack_key, read_directory
from drkit.repository.format.snapshot import Snapshot, Target, stored_trees
from drkit.repository.format.tree import Member
from drkit.repository.holders.custody import require_identity
from drkit.repository.index import stored_packs
from drkit.repository.keys.wraps import TREE_KEY_ID
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository

Verified = set[int]


def verify_repository(repository: Repository, snapshots: Iterable[Snapshot] | None, progress: Progress) -> Report:
    """Check the structure, then read every pack and every member of the snapshots (all without any) and compare.

    A pack is compared with the hash it is named after, a member with its recorded digest. Needs the identity.
    """
    require_identity(repository, "verifying data")
    if snapshots is None:
        report = check_packs(repository, progress)
        snapshots = [record for record in repository.snapshots() if isinstance(record, Snapshot)]
    else:
        report = check_repository(repository)
    seen: Verified = set()
    with ChunkReader(repository) as reader:
        for snapshot in snapshots:
            for target in stored_trees(snapshot):
                _verify_target(repository, report, reader, snapshot, target, seen, progress)
    return report


def check_packs(repository: Repository, progress: Progress) -> Report:
    """Check the structure, and compare every pack with the hash that it is named after. Needs no identity."""
    return _with_packs(repository, check_pack_bytes_of(repository.storage, stored_packs(repository.storage), progress))


def verify_subset(repository: Repository, percent: float, seed: str, progress: Progress) -> Report:
    """Check the structure; of the packs, read about `percent` whole, open every chunk in them and compare its name.

    The same seed chooses the same packs. Needs the identity.
    """
    chosen = [pack_id for pack_id in stored_packs(repository.storage) if _in_subset(pack_id, percent, seed)]
    read = check_pack_bytes_of(repository.storage, chosen, lambda count: None)
    for pack_id in chosen:
        key = pack_key(pack_id)
        if key in read.findings:
            continue
        try:
            _open_pack(repository, pack_id, progress)
        except IntegrityError as error:
            read.found(key, error.message)
        except ObjectNotFound:
            continue  # a prune removed it since the listing
    return _with_packs(repository, read)


def _in_subset(pack_id: bytes, percent: float, seed: str) -> bool:
    number = int.from_bytes(hashlib.sha256(seed.encode() + pack_id).digest()[:8], "big")
    return number < percent / 100 * 2**64


def _open_pack(repository: Repository, pack_id: bytes, progress: Progress) -> None:
    body = repository.storage.get(pack_key(pack_id))
    for entry in read_directory(repository.storage, repository.objects, pack_id):
        sealed = body[entry.offset : entry.offset + entry.sealed_size]
        data = repository.chunks.open(entry.chunk_id, sealed, entry.key_id, entry.size)
        if repository.chunks.chunk_id(data, tree=entry.key_id == TREE_KEY_ID) != entry.chunk_id:
            raise IntegrityError(f"chunk {entry.chunk_id.hex()} holds another content than its name says")
        progress(entry.sealed_size)


def _with_packs(repository: Repository, read: Report) -> Report:
    """Check the structure, and name what the damage that was found in packs hits."""
    damaged = [IntegrityError(each.problem, object_name=each.object) for each in read.findings.values()]
    report = check_repository(repository, damaged)
    report.bytes += read.bytes
    return report


def _verify_target(
    repository: Repository,
    report: Report,
    reader: ChunkReader,
    snapshot: Snapshot,
    target: Target,
    seen: Verified,
    progress: Progress,
) -> None:
    """Verify members not seen before, in one stream; where that fails one by one, so that each bad file is named."""

    def unseen() -> Iterator[Member]:
        return (member for member in reader.members(target) if hash((member.digest, member.extents)) not in seen)

    try:
        for member, digest in _digests(repository, reader, unseen, progress):
            if digest != member.digest:
                break
        else:
            seen.update(hash((member.digest, member.extents)) for member in reader.members(target))
            return
        members = list(unseen())
    except IntegrityError as error:
        try:
            members = list(unseen())
        except IntegrityError:  # the tree itself cannot be read: no file of the target can
            _finding(report, error).hits(snapshot, f"{target.kind} {target.name}")
            return
    for member in members:
        try:
            found = [digest for _, digest in _digests(repository, reader, lambda: [member], lambda count: None)]  # noqa: B023
        except IntegrityError as error:
            _finding(report, error).hits(snapshot, describe_file(target, member))
            continue
        if found != [member.digest]:
            name = f"snapshots/{snapshot.id}"
            report.found(name, "holds members without their recorded digest").hits(
                snapshot, describe_file(target, member)
            )


def _finding(report: Report, error: IntegrityError) -> Damage:
    return report.found(error.object_name or error.message, error.message)


def _digests(
    repository: Repository, reader: ChunkReader, members: Callable[[], Iterable[Member]], progress: Progress
) -> Iterator[tuple[Member, bytes]]:
    """Yield members with the digest that their stored bytes have. Raises IntegrityError when they cannot be read."""
    selected = (Selected(member, member.path, member.leader) for member in members())
    stream = MemberStream(watched(iterator_readinto(raw_stream(reader, selected)), progress), repository.meta.member)
    expected = iter(members())
    try:
        for item in stream:  # to its end: only then it says whether that was one
            member = next(expected, None)
            if member is None:
                raise CaptureFailed("it holds more than they are")
            yield member, item.digest
        if not stream.ended or next(expected, None) is not None:
            raise CaptureFailed("it ends too early")
    except CaptureFailed as error:
        raise IntegrityError(
            f"a tree's members do not make up a tar stream: {error.message}", hint="Run drkit check."
        ) from None


def verify(
    context: Context, reference: str | None = None, *, percent: float | None = None, seed: str | None = None
) -> Report:
    """Read back one snapshot, all of them, or `percent` of the packs, chosen by `seed`, or by chance without one."""
    repository = context.uncached_repository
    if percent is not None:
        seed = seed or secrets.token_hex(4)
        context.events.note(f"reading about {percent:g}% of the packs, seed {seed}")
        report = verify_subset(repository, percent, seed, context.events)
    else:
        chosen = [find_snapshot(repository, reference)] if reference else None
        report = verify_repository(repository, chosen, context.events)
    return replace(report, seed=seed, warnings=context.warnings)
