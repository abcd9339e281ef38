"""What an incremental capture takes over, against a model with dictionaries and real inodes behind the paths."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from drkit.pipeline.reuse import READ, REUSE, ReusePlan, plan_reuse, read_everything, reused_members
from drkit.pipeline.scan import Scan
from drkit.repository.format.tree import EXTENT, Member
from drkit.storage.local.mounts import Mount
from tests.support.host_tar import scan_directory

CHUNK = 1000
LOCAL = [Mount(1, b"/", b"/volume", "ext4", b"/dev/sda1")]


@dataclass
class Inode:
    number: int
    kind: str
    size: int
    ctime: int


@dataclass
class Volume:
    """A file system in miniature: names, inodes, and a clock that every change advances."""

    names: dict[bytes, Inode] = field(default_factory=dict)
    clock: int = 0
    created: int = 0

    def create(self, path: bytes, kind: str, size: int) -> None:
        self.clock += 1
        self.created += 1
        self.names[path] = Inode(self.created, kind, size, self.clock)

    def link(self, path: bytes, to: bytes) -> None:
        self.touch(to)
        self.names[path] = self.names[to]

    def touch(self, path: bytes) -> None:
        self.clock += 1
        self.names[path].ctime = self.clock

    def unlink(self, path: bytes) -> None:
        self.touch(path)
        del self.names[path]

    def stat(self, path: bytes) -> bytes:
        inode = self.names[path]
        links = sum(other is inode for other in self.names.values())
        text = f"{inode.kind} 644 0 0 {inode.size} 1.5 {inode.ctime}.25 {inode.number} {links}"
        return text.encode()

    def scan(self) -> Scan:
        return Scan([b"%s\0%s\x0042\x008" % (path, self.stat(path)) for path in sorted(self.names)], True, LOCAL)


@dataclass
class Chunker:
    """Lays members end to end into chunks of one size; each capture starts a chunk of its own."""

    sizes: dict[bytes, int] = field(default_factory=dict)
    runs: int = 0
    position: int = 0

    def start(self) -> None:
        self.runs += 1
        self.position = 0

    def extents(self, length: int) -> bytes:
        packed = b""
        while length:
            name = f"{self.runs:04d}-{self.position // CHUNK:027d}".encode()
            offset = self.position % CHUNK
            part = min(length, CHUNK - offset)
            self.sizes[name] = CHUNK
            packed += EXTENT.pack(name, offset, part)
            self.position += part
            length -= part
        return packed


def capture(
    volume: Volume, chunker: Chunker, previous: list[Member], plan: ReusePlan, rng: random.Random
) -> list[Member]:
    """Read as tar does: of the links that it reads in one run, the first holds the content."""
    scan = volume.scan()
    kept = dict(reused_members(plan, scan, previous))
    leaders: dict[int, bytes] = {}
    chunker.start()
    tree = []
    for number, entry in enumerate(scan):
        if number in kept:
            tree.append(kept[number])
            continue
        inode = volume.names[entry.path]
        leader = leaders.setdefault(inode.number, entry.path) if inode.kind != "d" else entry.path
        length = 512 if leader != entry.path or inode.kind != "f" else 512 + inode.size
        digest = f"{inode.number} {inode.ctime}".encode()
        tree.append(
            Member(
                entry.path,
                entry.stat,
                b"" if leader == entry.path else leader,
                b"",
                digest,
                rng.random() < 0.9,
                chunker.extents(length),
            )
        )
    return tree


def mutate(volume: Volume, rng: random.Random) -> None:
    files = [path for path, inode in volume.names.items() if inode.kind != "d"]
    for _ in range(rng.randrange(8)):
        path = b"/".join(rng.choice([b"a", b"b", b"a-", b"a.b", b"c"]) for _ in range(rng.randrange(1, 4)))
        choice = rng.random()
        if choice < 0.35 and path not in volume.names:
            volume.create(path, rng.choice("fffdlp"), rng.choice([0, 1, 300, 900, 3500]))
        elif choice < 0.6 and path not in volume.names and files:
            source = rng.choice(files)
            if source in volume.names and volume.names[source].kind != "d":  # it may be another one by now
                volume.link(path, source)
        elif choice < 0.8 and files:
            path = rng.choice(files)
            if path in volume.names:
                volume.touch(path)
        elif files:
            path = rng.choice(files)
            if path in volume.names:
                volume.unlink(path)


def model(volume: Volume, previous: list[Member], sizes: dict[bytes, int]) -> set[bytes]:
    """The paths that may be taken over: all of a group of links or none, and of chunks that are live enough."""
    old = {member.path: member for member in previous}
    groups: defaultdict[int, list[bytes]] = defaultdict(list)
    for path in sorted(volume.names):
        groups[volume.names[path].number].append(path)
    fit: list[list[bytes]] = []
    for paths in groups.values():
        members = [old.get(path) for path in paths]
        same = all(m is not None and m.settled and m.stat == volume.stat(m.path) for m in members)
        if same and [m.leader for m in members if m] == [b"", *[paths[0]] * (len(paths) - 1)]:
            fit.append(paths)
    live: Counter[bytes] = Counter()
    for paths in fit:
        for path in paths:
            for chunk_id, _, length in EXTENT.iter_unpack(old[path].extents):
                live[chunk_id] += length
    gone = {chunk_id for chunk_id in live if chunk_id not in sizes or 2 * live[chunk_id] < sizes[chunk_id]}
    return {
        path
        for paths in fit
        if not any(chunk_id in gone for path in paths for chunk_id in old[path].chunk_ids())
        for path in paths
    }


def test_many_nights(seed: int) -> None:
    taken_over = 0
    for round_number in range(40):
        rng = random.Random(f"{seed} {round_number}")
        volume, chunker = Volume(), Chunker()
        tree: list[Member] = []
        volume.create(b"", "d", 0)
        for _ in range(12):
            mutate(volume, rng)
            for chunk_id in list(chunker.sizes):
                if rng.random() < 0.02:
                    del chunker.sizes[chunk_id]  # its pack is condemned, or gone
            scan, previous = volume.scan(), tree
            plan = plan_reuse(scan, lambda previous=previous: previous, chunker.sizes.get)  # type: ignore[misc]
            reused = {entry.path for entry, flag in zip(scan, plan.flags, strict=True) if flag == REUSE}
            assert reused == model(volume, previous, chunker.sizes), (seed, round_number)
            taken_over += len(reused)
            tree = capture(volume, chunker, previous, plan, rng)
            check_tree(volume, tree)
            used = {chunk_id for member in previous if member.path in reused for chunk_id in member.chunk_ids()}
            assert used <= plan.chunk_ids <= chunker.sizes.keys()
            same = [member.path for member in previous] == sorted(volume.names) and not plan.reads
            assert plan.identical == same
            assert plan.reads == len(scan) - len(reused)
    assert taken_over > 1000


def check_tree(volume: Volume, tree: list[Member]) -> None:
    """Whoever extracts this tree gets the volume: right content, and links of one file to each other."""
    assert [member.path for member in tree] == sorted(volume.names)
    seen: dict[bytes, Member] = {}
    for member in tree:
        inode = volume.names[member.path]
        assert member.digest == f"{inode.number} {inode.ctime}".encode(), member.path
        if member.leader:
            assert seen[member.leader].leader == b""
            assert volume.names[member.leader] is inode
        else:
            assert not any(volume.names[path] is inode for path in seen), member.path
        seen[member.path] = member


def scan_of(*entries: tuple[bytes, bytes], devices: Sequence[int] = (), mounts: Sequence[Mount] = LOCAL) -> Scan:
    """Each entry: path, then inode and links."""
    return Scan(
        [
            b"%s\0f 644 0 0 5 1.0 1.0 %s\0%d\x008" % (path, inode_and_links, device)
            for (path, inode_and_links), device in zip(entries, devices or [42] * len(entries), strict=True)
        ],
        True,
        list(mounts),
    )


def member(
    path: bytes, inode_and_links: bytes, *, leader: bytes = b"", extents: bytes = b"", settled: bool = True
) -> Member:
    return Member(path, b"f 644 0 0 5 1.0 1.0 " + inode_and_links, leader, b"", b"", settled, extents)


def flags(scan: Scan, previous: list[Member], sizes: dict[bytes, int] | None = None) -> str:
    plan = plan_reuse(scan, lambda: previous, (sizes or {}).get)
    return "".join("R" if flag == REUSE else "-" for flag in plan.flags)


def test_members_are_matched_by_path_and_stat() -> None:
    scan = scan_of((b"a", b"1 1"), (b"b", b"2 1"), (b"c", b"3 1"), (b"e", b"4 1"))
    previous = [
        member(b"a", b"1 1"),
        member(b"b", b"9 1"),
        member(b"c", b"3 1", settled=False),
        member(b"d", b"5 1"),
        member(b"e", b"4 1"),
    ]
    assert flags(scan, previous) == "R--R"
    assert flags(scan, []) == "----"
    assert not any(read_everything(scan).flags)
    assert (READ, REUSE) == (0, 1)


@pytest.mark.parametrize(
    ("previous", "expected"),
    [
        ([member(b"a", b"1 2"), member(b"b", b"1 2", leader=b"a")], "RR"),
        ([member(b"a", b"1 2"), member(b"b", b"1 2")], "--"),  # two files of an inode number that was used again
        ([member(b"b", b"1 2")], "--"),
        ([member(b"a", b"1 2")], "--"),
        ([member(b"a", b"1 2", leader=b"0"), member(b"b", b"1 2", leader=b"0")], "--"),
        ([member(b"a", b"1 2", settled=False), member(b"b", b"1 2", leader=b"a")], "--"),
    ],
)
def test_links_are_taken_over_together(previous: list[Member], expected: str) -> None:
    assert flags(scan_of((b"a", b"1 2"), (b"b", b"1 2")), previous) == expected


def test_links_on_two_devices_are_no_group() -> None:
    scan = scan_of((b"a", b"1 2"), (b"b", b"1 2"), devices=(1, 2))
    assert flags(scan, [member(b"a", b"1 2"), member(b"b", b"1 2")]) == "RR"


def test_a_chunk_that_is_half_live_is_kept() -> None:
    chunk = b"c" * 32
    scan = scan_of((b"a", b"1 1"))
    for live, expected in [(500, "R"), (499, "-")]:
        assert flags(scan, [member(b"a", b"1 1", extents=EXTENT.pack(chunk, 0, live))], {chunk: 1000}) == expected


def test_a_chunk_that_may_not_be_used_is_not() -> None:
    extents = EXTENT.pack(b"c" * 32, 0, 5)
    scan = scan_of((b"a", b"1 2"), (b"b", b"1 2"), (b"c", b"2 1"))
    previous = [member(b"a", b"1 2", extents=extents), member(b"b", b"1 2", leader=b"a"), member(b"c", b"2 1")]
    assert flags(scan, previous, {}) == "--R"


def test_a_real_directory(tmp_path: Path) -> None:
    """Two scans of the same directory by find are equal; then each change is seen."""
    (tmp_path / "d").mkdir()
    for name in ("a", "d/b", "c"):
        (tmp_path / name).write_text(name)
    (tmp_path / "d" / "link").hardlink_to(tmp_path / "a")

    def no_chunk(chunk_id: bytes) -> int | None:
        return None

    def tree(scan: Scan) -> list[Member]:
        return [
            Member(entry.path, entry.stat, b"a" if entry.path == b"d/link" else b"", b"", b"", True, b"")
            for entry in scan
        ]

    before = scan_directory(tmp_path)
    previous = tree(before)
    plan = plan_reuse(scan_directory(tmp_path), lambda: previous, no_chunk)
    assert plan.identical
    (tmp_path / "c").chmod(0o600)
    (tmp_path / "d" / "link").write_text("new")
    after = scan_directory(tmp_path)
    plan = plan_reuse(after, lambda: previous, no_chunk)
    read = [entry.path for entry, flag in zip(after, plan.flags, strict=True) if flag == READ]
    assert read == [b"a", b"c", b"d/link"]
