"""A repository for tests: made quickly, with content whose right answer is known."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime

from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.record import encode_snapshot
from drkit.repository.format.sealing import SigningKey
from drkit.repository.format.snapshot import Previous, Snapshot, Target, format_time
from drkit.repository.format.tree import EXTENT, Member, TreeWriter, encode_member
from drkit.repository.keys.identity import Identity, generate_identity
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.storage.base import Storage

SIGNER = SigningKey(b"s" * 32)
NOW = datetime(2025, 3, 9, 1, 2, 3, tzinfo=UTC)

Content = dict[bytes, bytes]
"""Raw bytes of the members of a target, by path."""


def create(storage: Storage, *others: Identity) -> tuple[Repository, Identity]:
    identity = generate_identity()
    recipients = [identity.recipient, *(other.recipient for other in others)]
    return Repository.create(storage, identity, recipients, now=NOW), identity


def random_content(rng: random.Random, files: int = 12) -> Content:
    """Some small members, some that do not compress, and some of several chunks; no chunk is another content's too."""
    content = {b"": rng.randbytes(512)}
    for number in range(files):
        size = rng.choice([0, 100, 5000, 200_000])
        data = rng.randbytes(size) if number % 3 else rng.randbytes(50) * (size // 50)
        content[b"%03d" % number] = rng.randbytes(512) + data
    return content


def put_content(
    repository: Repository, writer: RunWriter, target: Target, content: Mapping[bytes, bytes], *, piece: int = 50_000
) -> None:
    """Store members, each cut at fixed places: the chunker is tested elsewhere."""
    tree = TreeWriter(writer.put_tree)
    for path, data in sorted(content.items()):
        extents = b""
        for start in range(0, len(data), piece):
            part = data[start : start + piece]
            extents += EXTENT.pack(writer.put_data(part), 0, len(part))
        digest = keyed_digest(repository.meta.member, data)
        tree.add(encode_member(Member(path, b"f 644 0 0 5 1.5 1.5 7 1", b"", b"", digest, True, extents)))
    target.files = len(content)
    target.tree = [chunk_id.hex() for chunk_id in tree.finish()]
    target.aligned = tree.aligned


def write_snapshot(
    repository: Repository,
    recipients: list[str],
    run_id: str,
    contents: Mapping[str, Mapping[bytes, bytes]],
    *,
    number: int = 0,
    previous: Previous | None = None,
) -> Snapshot:
    """With a `number` the record is signed, as number so many of the one installation that tests have."""
    snapshot = Snapshot(run_id, format_time(NOW), "host", "policy", "ok", [])
    payload = None
    with RunWriter(repository, run_id, recipients, host="host") as writer:
        for name, content in contents.items():
            target = Target("volume", name)
            put_content(repository, writer, target, content)
            snapshot.targets.append(target)
        if number:
            payload = sign(repository, snapshot, number, previous)
        writer.commit(snapshot, payload)
    return snapshot


def sign(repository: Repository, snapshot: Snapshot, number: int, previous: Previous | None = None) -> bytes:
    """Give a record its place in the series of the one installation that tests have; what is to be stored."""
    snapshot.origin, snapshot.sequence, snapshot.previous = SIGNER.public.hex(), number, previous
    return encode_snapshot(snapshot, SIGNER, repository_id=repository.id)


def read_content(repository: Repository, target: Target) -> Content:
    """Read a target back; its digests must be right."""
    content = {}
    with ChunkReader(repository) as reader:
        for member in reader.members(target):
            content[member.path] = b"".join(reader.extents([member]))
            assert keyed_digest(repository.meta.member, content[member.path]) == member.digest
    return content


def read_everything(repository: Repository) -> dict[str, dict[str, Content]]:
    """Snapshot id -> target -> content. Raises what reading raises."""
    result = {}
    for snapshot in repository.snapshots():
        if not isinstance(snapshot, Snapshot):
            raise snapshot
        result[snapshot.id] = {target.name: read_content(repository, target) for target in snapshot.targets}
    return result
