"""What tests of copies share: a mirror of a repository, and copies into it over any two storages."""

from __future__ import annotations

import random
from collections.abc import Sequence

from drkit.operations.copy import CopyResult, copy_into
from drkit.repository.format.snapshot import Snapshot
from drkit.repository.keys.identity import Identity
from drkit.repository.mirror.mirror import create_mirror, open_mirror
from drkit.repository.repository import Repository
from drkit.storage.base import Storage
from tests.support.repositories import NOW, Content, read_content


def make_mirror(source: Repository, storage: Storage) -> Repository:
    create_mirror(source, storage, now=NOW, single_writer=False)
    return open_mirror(source, storage)


def copy_all(source: Repository, mirror: Storage, *references: str) -> CopyResult:
    return copy_into(source, open_mirror(source, mirror), references, host="host")


def by_original(storage: Storage, identity: Identity) -> dict[str, dict[str, Content]]:
    """What a mirror holds, each snapshot read whole and digests compared, by the id of the run that captured it."""
    opened = Repository.open(storage, [identity])
    held = {}
    for snapshot in opened.snapshots():
        if not isinstance(snapshot, Snapshot):
            raise snapshot
        held[snapshot.original] = {target.name: read_content(opened, target) for target in snapshot.targets}
    return held


def related_contents(rng: random.Random, runs: Sequence[str]) -> dict[str, dict[str, Content]]:
    """Each run keeps most of what the one before held, and adds something."""
    contents: dict[str, dict[str, Content]] = {}
    last: Content = {}
    for run in runs:
        kept = {path: data for path, data in last.items() if rng.random() < 0.7}
        last = {**kept, b"": rng.randbytes(512), b"of-%s" % run.encode(): rng.randbytes(rng.choice([700, 180_000]))}
        contents[run] = {"v": last}
    return contents
