#!/usr/bin/env python3
"""Measure what piles up: objects, bytes and requests of 1,000 snapshots of a small change, all of which are kept.

    .cache/venv/bin/python benchmarks/growth.py [--snapshots 1000] [--prune-every 30] [--directory DIR]

Each run is what a backup does in a repository, without an engine: it lists the records, reads the tree before, stores
the files that changed and a new tree, and commits. Requests are those that would reach a bucket, from a host that keeps
copies of small objects: a listing counts once for each 1,000 keys. Seconds are CPU time, measured once, in a directory.
The result is a Markdown table.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import say
from benchmarks.report import table
from drkit.catalog.find import previous_target, readable_snapshots
from drkit.repository.check import check_repository
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.kinds import Status
from drkit.repository.format.names import new_run_id
from drkit.repository.format.snapshot import Snapshot, Target, format_time
from drkit.repository.format.tree import EXTENT, Member, TreeWriter, encode_member
from drkit.repository.prune.prune import Options, Prune
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.storage.base import MAX_OBJECT, Data, ObjectInfo, Storage
from drkit.storage.cached import CachedStorage
from drkit.storage.forwarding import ForwardingStorage
from tests.support.place import open_place
from tests.support.pruning import FastClock
from tests.support.repositories import NOW, create

AT = (1, 10, 100, 1000)
KEYS_A_PAGE = 1000
CHUNK_FILES = 100
MAX_REPACK = 4 << 30
COUNTED = ("packs", "index", "keys", "labels")
VERBS = ("run", "snapshots", "check", "prune")


class Requests(ForwardingStorage):
    """Counts what would be requests to a bucket."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self.count = 0

    def put(self, key: str, data: Data, *, locked: bool = True) -> None:
        self.count += 1
        self.inner.put(key, data, locked=locked)

    def get(self, key: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT) -> bytes:
        self.count += 1
        return self.inner.get(key, offset, length, limit=limit)

    def stat(self, key: str) -> ObjectInfo:
        self.count += 1
        return self.inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found = list(self.inner.list(prefix))
        self.count += 1 + len(found) // KEYS_A_PAGE
        return iter(found)

    def delete(self, key: str) -> None:
        self.count += 1
        self.inner.delete(key)


@dataclass(frozen=True)
class Row:
    """The repository after so many runs. Each cost is requests and CPU seconds."""

    snapshots: int
    objects: dict[str, int]
    bytes: int
    costs: dict[str, tuple[int, float]] = field(default_factory=dict)


class Growth:
    """One host's backups of one volume of `files` files, `changed` of which are new in each run."""

    def __init__(
        self, place: Storage, cache: Path, rng: random.Random, *, files: int = 5000, size: int = 8192, changed: int = 20
    ) -> None:
        self._storage = Requests(place)
        self._cache = cache
        self._rng = rng
        self._changed, self._size = changed, size
        _, self._identity = create(place)
        self._paths = sorted({b"", *(b"srv/%04d/%06d.json" % (number // 250, number) for number in range(files))})
        self._runs = 0
        self._chunk_files: dict[bytes, int] = {}
        """How many files each chunk held when it was stored."""

    def open(self, *, cached: bool = True) -> Repository:
        storage = CachedStorage(self._storage, self._cache) if cached else self._storage
        return Repository.open(storage, [self._identity])

    def backup(self) -> None:
        """Store a snapshot in which some neighbouring files are new."""
        self._runs += 1
        moment = NOW + timedelta(days=self._runs)
        run_id = new_run_id(moment, self._rng.randbytes(4))
        repository = self.open()
        snapshots, _ = readable_snapshots(repository)
        previous = previous_target(snapshots, "volume", "v")
        target = Target("volume", "v", files=len(self._paths))
        with (
            RunWriter(repository, run_id, [self._identity.recipient], host="host") as writer,
            ChunkReader(repository) as reader,
        ):
            kept = {member.path: member for member in reader.members(previous)} if previous else {}
            fresh = {member.path: member for member in self._stored(repository, writer, self._to_read(kept))}
            members = {**kept, **fresh}
            writer.use({chunk_id for path in kept.keys() - fresh.keys() for chunk_id in kept[path].chunk_ids()})
            tree = TreeWriter(writer.put_tree)
            for path in self._paths:
                tree.add(encode_member(members[path]))
            target.tree, target.aligned = [chunk_id.hex() for chunk_id in tree.finish()], tree.aligned
            writer.commit(Snapshot(run_id, format_time(moment), "host", "policy", Status.OK, [target]))

    def _to_read(self, kept: dict[bytes, Member]) -> list[bytes]:
        """Everything at first, then what has changed, and what shares a chunk that is mostly dead: see reuse.py."""
        if not kept:
            return self._paths
        start = self._rng.randrange(len(self._paths) - self._changed)
        changed = set(self._paths[start : start + self._changed])
        holds = {path: next(member.chunk_ids()) for path, member in kept.items()}
        live = Counter(holds[path] for path in kept if path not in changed)
        thin = {chunk_id for chunk_id, count in live.items() if 2 * count < self._chunk_files[chunk_id]}
        return [path for path in self._paths if path in changed or holds[path] in thin]

    def _stored(self, repository: Repository, writer: RunWriter, paths: Sequence[bytes]) -> Iterator[Member]:
        for first in range(0, len(paths), CHUNK_FILES):
            here = paths[first : first + CHUNK_FILES]
            contents = [self._rng.randbytes(self._size // 2) + bytes(self._size // 2) for _ in here]
            chunk_id = writer.put_data(b"".join(contents))
            self._chunk_files[chunk_id] = len(here)
            for number, (path, content) in enumerate(zip(here, contents, strict=True)):
                stat = b"f 644 1000 1000 %d %d.0000000000 %d.0000000000 %d 1" % (
                    self._size,
                    1_700_000_000 + self._runs,
                    1_700_000_000 + self._runs,
                    self._rng.randrange(10**6),
                )
                extents = EXTENT.pack(chunk_id, number * self._size, self._size)
                yield Member(path, stat, b"", b"", keyed_digest(repository.meta.member, content), True, extents)

    def prune(self) -> None:
        """Forget nothing, and merge what is small."""
        prune_id = new_run_id(NOW + timedelta(days=self._runs), self._rng.randbytes(4))
        options = Options(MAX_REPACK)
        Prune(self.open(), prune_id, lambda snapshots: set(), options, host="host", clock=FastClock()).run()

    def check(self) -> None:
        report = check_repository(self.open(cached=False))
        if not report.ok:
            raise RuntimeError(f"the repository is damaged: {report}")

    def list_snapshots(self) -> None:
        if len(readable_snapshots(self.open())[0]) != self._runs:
            raise RuntimeError("snapshots are missing")

    def row(self) -> Row:
        """What is stored now, and what each verb costs; the run, and the prune at the end, are among them."""
        costs = {"run": self.cost(self.backup)}
        stored = list(self._storage.inner.list(""))
        objects = Counter(_prefix(info.key) for info in stored)
        size = sum(info.size for info in stored)
        costs |= {"snapshots": self.cost(self.list_snapshots), "check": self.cost(self.check)}
        costs["prune"] = self.cost(self.prune)
        return Row(self._runs, dict(objects), size, costs)

    def cost(self, work: Callable[[], None]) -> tuple[int, float]:
        before, clock = self._storage.count, time.process_time()
        work()
        return self._storage.count - before, time.process_time() - clock


def _prefix(key: str) -> str:
    first, _, rest = key.partition("/")
    return "labels" if rest.startswith("recipients/") else first


def grow(growth: Growth, snapshots: int, prune_every: int, at: Sequence[int] = AT) -> Iterator[Row]:
    """Make so many snapshots, with a prune after each `prune_every`, and yield what there is after those in `at`."""
    for number in range(1, snapshots + 1):
        if number in at:
            yield growth.row()
        else:
            growth.backup()
        if number % prune_every == 0:
            growth.prune()


def render(rows: Sequence[Row]) -> str:
    header = [
        "snapshots",
        *COUNTED,
        "MB",
        *(f"{verb}: requests" for verb in VERBS),
        *(f"{verb}: CPU s" for verb in VERBS),
    ]
    return table(
        header,
        [
            [
                f"{row.snapshots:,}",
                *(f"{row.objects.get(name, 0):,}" for name in COUNTED),
                f"{row.bytes / 1e6:,.0f}",
                *(f"{row.costs[verb][0]:,}" for verb in VERBS),
                *(f"{row.costs[verb][1]:.2f}" for verb in VERBS),
            ]
            for row in rows
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--snapshots", type=int, default=AT[-1])
    parser.add_argument("--prune-every", type=int, default=30)
    parser.add_argument("--directory", type=Path, help="for the repository; it must not exist")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        place = open_place(str(wanted.directory or Path(work, "repository")), create=True)
        growth = Growth(place, Path(work, "cache.sqlite"), random.Random(1))
        rows = []
        for row in grow(growth, wanted.snapshots, wanted.prune_every):
            say(str(row))
            rows.append(row)
    print(render(rows))


if __name__ == "__main__":
    main()
