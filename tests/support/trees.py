"""Trees of members without data, stored in a repository in memory in many small chunks."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from drkit.repository.format import tree as tree_module
from drkit.repository.format.chunker import ChunkerParameters
from drkit.repository.format.snapshot import Snapshot, Target, format_time
from drkit.repository.format.tree import Member, TreeWriter, encode_member
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import NOW, create

SMALL = ChunkerParameters(256, 512, 2048)


def member(path: bytes, kind: str = "f", leader: bytes = b"") -> Member:
    return Member(path, f"{kind} 644 0 0 5 1.5 1.5 7 1".encode(), leader, b"", bytes(32), True, b"")


class CountingReader(ChunkReader):
    """Counts how often each chunk was asked for."""

    def __init__(self, repository: Repository) -> None:
        super().__init__(repository)
        self.asked: Counter[bytes] = Counter()

    def chunk(self, chunk_id: bytes, *, tree: bool = False) -> bytes:
        self.asked[chunk_id] += 1
        return super().chunk(chunk_id, tree=tree)


class Trees:
    """Stores trees; each is a run of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tree_module, "TREE_CHUNKS", SMALL)
        self.repository, self._identity = create(MemoryStorage())
        self._runs = 0

    def store(self, members: Sequence[Member]) -> Target:
        """Store a tree of a volume with its members in this order."""
        target = Target("volume", "v", files=len(members))

        def put(writer: RunWriter) -> None:
            tree = TreeWriter(writer.put_tree)
            for each in members:
                tree.add(encode_member(each))
            target.tree = [chunk_id.hex() for chunk_id in tree.finish()]
            target.aligned = tree.aligned

        return self._run(target, put)

    def store_pieces(self, pieces: Sequence[bytes]) -> Target:
        """Store a tree of these chunks, which says that it is aligned, whatever they hold."""
        target = Target("volume", "v", aligned=True)

        def put(writer: RunWriter) -> None:
            target.tree = [writer.put_tree(piece).hex() for piece in pieces]

        return self._run(target, put)

    def _run(self, target: Target, put: Callable[[RunWriter], None]) -> Target:
        self._runs += 1
        snapshot = Snapshot(f"{self._runs}", format_time(NOW), "host", "policy", "ok", [target])
        repository = Repository.open(self.repository.storage, [self._identity])
        with RunWriter(repository, snapshot.id, [self._identity.recipient], host="host") as writer:
            put(writer)
            writer.commit(snapshot)
        self.repository = Repository.open(self.repository.storage, [self._identity])
        return target


def random_tree(rng: random.Random, size: int) -> list[Member]:
    """A volume's tree: the root, directories, files, and hard links to earlier files; paths that bytes make hard."""
    names = [
        b"a",
        b"a-",
        b"a.b",
        b"a0",
        b"b",
        b"b c",
        b"*",
        b"[x]",
        b"!n",
        b"#c",
        b"\xff",
        b"\xffz",
        b"\xc3\xa9",
        b"n\nl",
    ]
    directories = [b""]
    kinds = {b"": "d"}
    while len(kinds) < size:
        path = b"/".join(
            part for part in (rng.choice(directories), rng.choice(names) + rng.choice([b"", b"1", b"2"])) if part
        )
        if path not in kinds:
            kinds[path] = rng.choice("dffl")
            if kinds[path] == "d" and not {*b"[*\n"} & {*path}:  # or few paths would be patterns that match themselves
                directories.append(path)
    members: list[Member] = []
    files: list[bytes] = []
    for path, kind in sorted(kinds.items()):
        leader = rng.choice(files) if kind == "f" and files and rng.random() < 0.1 else b""
        if kind == "f" and not leader:
            files.append(path)
        members.append(member(path, kind, leader))
    return members
