"""One pass over a tar stream: members, digests and extents must be right however the bytes come."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drkit.errors import CaptureFailed
from drkit.pipeline import stream as module
from drkit.pipeline.stream import MemberStream, ReadInto, StreamMember, iterator_readinto, watched
from drkit.pipeline.tar.content import ContentHasher
from drkit.pipeline.tar.frames import BLOCK, END_OF_ARCHIVE, TarFramer, member_records
from drkit.repository.format.chunker import DATA_CHUNKS, ChunkerParameters
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.tree import EXTENT
from tests.support.host_tar import create_tar, scan_directory
from tests.support.torture import make_torture_tree

KEY = b"k" * 32
MIB = 1 << 20


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, seed: int) -> bytes:
    root = tmp_path_factory.mktemp("torture")
    make_torture_tree(root, random.Random(seed), many=100, huge_files=False)
    return create_tar(root, (entry.path for entry in scan_directory(root)))


@pytest.fixture
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Sets the sizes of buffer and largest chunk: with the real ones a test would need gigabytes to meet every edge."""

    def use(buffer: int, chunk: int) -> None:
        monkeypatch.setattr(module, "BUFFER_SIZE", buffer)
        monkeypatch.setattr(module, "DATA_CHUNKS", ChunkerParameters(chunk // 16, chunk // 4, chunk))

    return use


class Chunks:
    """Keeps chunks under their names."""

    def __init__(self) -> None:
        self.order: list[bytes] = []
        self.content: dict[bytes, bytes] = {}

    def put(self, data: bytes) -> bytes:
        name = keyed_digest(KEY, data)
        self.order.append(name)
        self.content[name] = data
        return name

    def join(self, extents: bytes) -> bytes:
        return b"".join(
            self.content[name][offset : offset + length] for name, offset, length in EXTENT.iter_unpack(extents)
        )


def in_pieces(data: bytes, rng: random.Random, largest: int) -> ReadInto:
    """As a pipe gives them: never all that is asked for."""
    position = 0

    def readinto(buffer: memoryview) -> int:
        nonlocal position
        assert len(buffer) > 0
        count = min(len(buffer), len(data) - position, rng.randrange(1, largest))
        buffer[:count] = data[position : position + count]
        position += count
        return count

    return readinto


def whole(readinto: ReadInto, chunks: Chunks | None = None, *, split: bool = False) -> list[StreamMember]:
    stream = MemberStream(readinto, KEY, chunks.put if chunks else None, split=split)
    members = list(stream)
    assert stream.ended
    return members


def expected_members(archive: bytes) -> list[tuple[bytes, bytes]]:
    """Name and raw bytes of every member."""
    framer = TarFramer()
    return [(frame.name, archive[frame.start : frame.end]) for frame in framer.frames(memoryview(archive), 0)]


@pytest.mark.parametrize(("buffer", "chunk"), [(MIB, 64 << 10), (256 << 10, 64 << 10), (256 << 10, 192 << 10)])
def test_extents_and_digests_give_the_raw_members(
    archive: bytes, rng: random.Random, small_buffer: Callable[[int, int], None], buffer: int, chunk: int
) -> None:
    small_buffer(buffer, chunk)
    for largest in (10_000, buffer, 3 * buffer):
        chunks = Chunks()
        members = whole(in_pieces(archive, rng, largest), chunks)
        assert [(item.frame.name, chunks.join(item.extents)) for item in members] == expected_members(archive)
        assert [item.digest for item in members] == [keyed_digest(KEY, raw) for _, raw in expected_members(archive)]
        # Nothing is lost or cut twice, and nothing kept of what tar appends behind the members.
        members_end = members[-1].frame.end
        assert len(archive) - members_end > len(END_OF_ARCHIVE)
        assert b"".join(chunks.content[name] for name in chunks.order) == archive[:members_end]


def test_chunks_do_not_depend_on_how_the_bytes_come(
    archive: bytes, rng: random.Random, small_buffer: Callable[[int, int], None]
) -> None:
    orders = []
    for buffer in (256 << 10, 300 << 10, 2 * MIB):
        small_buffer(buffer, 64 << 10)
        chunks = Chunks()
        whole(in_pieces(archive, rng, rng.randrange(1000, MIB)), chunks)
        orders.append(chunks.order)
    assert orders[0] == orders[1] == orders[2]
    assert len(orders[0]) > 100


def test_random_members(rng: random.Random, small_buffer: Callable[[int, int], None], tmp_path: Path) -> None:
    """Sizes around the edges of blocks, chunks and buffers, content that compresses and such that does not."""
    small_buffer(128 << 10, 32 << 10)
    edges = [0, 1, 511, 512, 513, 1023, 1024, (32 << 10) - 512, 32 << 10, (128 << 10) - 1024, 128 << 10, 400 << 10]
    for number in range(60):
        size = rng.choice(edges) + rng.choice([-1, 0, 0, 1, 512]) if rng.random() < 0.8 else rng.randrange(1 << 20)
        data = rng.randbytes(max(size, 0)) if rng.random() < 0.7 else bytes(max(size, 0))
        (tmp_path / f"{number:03d}").write_bytes(data)
    archive = create_tar(tmp_path, (entry.path for entry in scan_directory(tmp_path)))
    for largest in (700, 50_000, 1 << 20):
        chunks = Chunks()
        members = whole(in_pieces(archive, rng, largest), chunks)
        assert [(item.frame.name, chunks.join(item.extents)) for item in members] == expected_members(archive)
        digests = [item.digest for item in whole(in_pieces(archive, rng, largest))]
        assert digests == [item.digest for item in members]


def test_with_the_real_sizes(rng: random.Random, tmp_path: Path) -> None:
    for name, size in [("a", 3), ("b", 37 * MIB), ("c", 0), ("d", 16 * MIB), ("e", 5)]:
        (tmp_path / name).write_bytes(rng.randbytes(size))
    archive = create_tar(tmp_path, (entry.path for entry in scan_directory(tmp_path)))
    chunks = Chunks()
    members = whole(in_pieces(archive, rng, MIB), chunks)
    assert [chunks.join(item.extents) for item in members] == [raw for _, raw in expected_members(archive)]
    sizes = [len(data) for data in chunks.content.values()]
    assert max(sizes) <= DATA_CHUNKS.maximum
    assert min(sizes[:-1]) >= DATA_CHUNKS.minimum


def test_split_digests_leave_the_headers_out(
    archive: bytes, rng: random.Random, small_buffer: Callable[[int, int], None]
) -> None:
    small_buffer(256 << 10, 64 << 10)
    for item, (_, raw) in zip(
        whole(in_pieces(archive, rng, 100_000), split=True), expected_members(archive), strict=True
    ):
        head = item.frame.data - item.frame.start
        assert item.headers == raw[:head]
        content = ContentHasher(KEY, member_records(item.headers), item.frame.size)
        content.update(memoryview(raw)[head:])
        assert item.digest == content.digest()


@pytest.mark.slow
def test_a_stream_that_breaks_off_never_ends_well(
    archive: bytes, rng: random.Random, small_buffer: Callable[[int, int], None]
) -> None:
    small_buffer(256 << 10, 64 << 10)
    members = expected_members(archive)
    start = len(archive) - len(archive.rstrip(b"\0")) - BLOCK
    # The last members, cut at every block and within blocks; and at random anywhere.
    ends = [len(b"".join(raw for _, raw in members)) + cut for cut in range(-30 * BLOCK, 2 * BLOCK, BLOCK // 2)]
    ends += [rng.randrange(len(archive) - start) for _ in range(20)]
    for end in ends:
        stream = MemberStream(in_pieces(archive[:end], rng, 400_000), KEY, Chunks().put)
        try:
            count = len(list(stream))
        except CaptureFailed:
            continue
        assert not stream.ended, end
        assert stream.bytes_read == end
        assert sum(len(raw) for _, raw in members[:count]) <= end


def test_headers_larger_than_the_buffer_are_refused(
    small_buffer: Callable[[int, int], None], tmp_path: Path, rng: random.Random
) -> None:
    small_buffer(64 << 10, 4 << 10)
    file = tmp_path / "a"
    file.touch()
    archive = create_tar(tmp_path, [b"a"])
    head = bytearray(archive[:BLOCK])  # the extended header of a real file, made larger
    head[124:136] = b"%011o\0" % (65 << 10)
    with pytest.raises(CaptureFailed, match="does not fit"):
        list(MemberStream(in_pieces(bytes(head) + bytes(200 << 10), rng, 10_000), KEY, Chunks().put))


def large_member(size: int) -> Iterator[bytes]:
    head = bytearray(b"./large".ljust(100, b"\0") + b"0000644\0" * 3)
    head += b"\x80" + size.to_bytes(11, "big") + b"00000000000\0" + b"        0" + bytes(100) + b"ustar\x0000"
    yield bytes(head.ljust(BLOCK, b"\0"))
    block = random.Random(0).randbytes(MIB)
    for _ in range(size // MIB):
        yield block
    yield END_OF_ARCHIVE


def test_memory_is_bounded() -> None:
    tracemalloc.start()
    try:
        stream = MemberStream(iterator_readinto(large_member(400 * MIB)), KEY, lambda data: keyed_digest(KEY, data))
        [item] = stream
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stream.ended
    assert sum(length for _, _, length in EXTENT.iter_unpack(item.extents)) == 400 * MIB + BLOCK
    print(f"peak of 400 MiB: {peak / MIB:.1f} MiB")
    assert peak < 32 * MIB


def test_an_iterator_of_bytes_is_read_to_its_end() -> None:
    readinto = iterator_readinto([b"", b"abc", memoryview(b"defg"), b"", b"h", b""])
    buffer = memoryview(bytearray(3))
    got = b""
    while count := readinto(buffer):
        got += buffer[:count]
    assert got == b"abcdefgh"
    assert readinto(buffer) == 0


def test_every_read_is_told() -> None:
    told: list[int] = []
    readinto = watched(iterator_readinto([b"abc", b"d"]), told.append)
    while readinto(memoryview(bytearray(2))):
        pass
    assert sum(told) == 4
