"""The content of a file, however its holes are stored."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from drkit.engine.helper.reading import TAR_CREATE, Reading
from drkit.errors import CaptureFailed
from drkit.pipeline.describe import describe, differences
from drkit.pipeline.sample import Content
from drkit.pipeline.stream import MemberStream, StreamMember, iterator_readinto
from drkit.pipeline.tar.content import sparse_map
from drkit.repository.format.snapshot import Target
from drkit.repository.reader import ChunkReader
from drkit.repository.writer import RunWriter
from tests.support.host_tar import capture_directory
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import create

KEY = b"k" * 32
READINGS = [Reading.HOLES_TOLD, Reading.HOLES_SEARCHED, Reading.PLAIN, Reading.PLAIN_LINKED]


def read(path: Path, reading: Reading, rng: random.Random) -> StreamMember:
    archive = subprocess.run(
        ["sh", "-c", f"exec {TAR_CREATE} {reading}"],
        cwd=path.parent,
        env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
        input=f"./{path.name}\0".encode(),
        check=True,
        capture_output=True,
    ).stdout
    cuts = sorted(rng.choices(range(len(archive)), k=20))
    pieces = [archive[start:end] for start, end in zip([0, *cuts], [*cuts, len(archive)], strict=True)]
    stream = MemberStream(iterator_readinto(piece for piece in pieces if piece), KEY, split=True)
    [item] = stream
    assert stream.ended
    return item


def write_random(path: Path, rng: random.Random) -> int:
    """Write a file of data, zeros and holes, which end anywhere."""
    size = rng.choice([0, 1, 511, 4096, 5000, 100_000, 1 << 20])
    with path.open("wb") as file:
        for _ in range(rng.randrange(6)):
            file.seek(rng.randrange(size + 1))
            file.write(rng.choice([bytes, rng.randbytes])(rng.choice([1, 512, 4096, 30_000])))
        size = max(size, file.seek(0, os.SEEK_END))
        file.truncate(size)
    return size


def test_digests_tell_content_and_not_how_it_is_stored(tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "file"
    sparse = 0
    for _ in range(60):
        size = write_random(path, rng)
        described = [describe(read(path, reading, rng)) for reading in READINGS]
        sparse += read(path, Reading.HOLES_TOLD, rng).frame.size != size
        assert {each.size for each in described} == {size}
        for each in described[1:]:
            assert differences(described[0], each) == []
        if size:
            with path.open("r+b") as file:
                place = rng.randrange(size)
                file.seek(place)
                byte = file.read(1)
                file.seek(place)
                file.write(bytes([byte[0] ^ 1]))
            for reading, old in zip(READINGS, described, strict=True):
                assert "content" in differences(old, describe(read(path, reading, rng)))
    assert sparse > 10, "no file had a hole"


def test_a_longer_hole_is_other_content(tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "file"
    found = set()
    for size in (0, 1, 4096, 1 << 40, (1 << 40) + 1):
        with path.open("wb") as file:
            file.truncate(size)
        found.add(describe(read(path, Reading.HOLES_TOLD, rng)).content)
    assert len(found) == 5


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (b"", None),
        (b"1\n0\n", None),
        (b"1\n0\n5\n", ((0, 5, 512),)),
        (b"2\n0\n5\n512\n7\nrest", ((0, 5, 512), (512, 7, 517))),
        (b"0\n", ()),
    ],
)
def test_maps(stored: bytes, expected: tuple[tuple[int, int, int], ...] | None) -> None:
    assert sparse_map(stored) == expected


@pytest.mark.parametrize("stored", [b"x" * 512, b"-1\n", b"1\nx\n5\n", b"2\n9\n5\n0\n1\n", b"1\n0\n-5\n"])
def test_what_is_no_map(stored: bytes) -> None:
    with pytest.raises(CaptureFailed, match="map"):
        sparse_map(stored)


def test_any_part_of_a_stored_file(tmp_path: Path, rng: random.Random) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for number in range(30):
        write_random(root / str(number), rng)
    with (root / "fragments").open("wb") as file:  # a map of more than the first read
        for number in range(6000):
            file.seek(number * 20_000)
            file.write(b"%d" % number)
    (root / "large").write_bytes(rng.randbytes(10 << 20))
    repository, identity = create(MemoryStorage())
    target = Target("volume", "x")
    with RunWriter(repository, os.urandom(8).hex(), [identity.recipient], host="h") as writer:
        capture_directory(repository, writer, target, root)
        writer.keep()
    repository.reload_index()
    with ChunkReader(repository) as reader:
        for member in reader.members(target):
            path = root / os.fsdecode(member.path)
            if not path.is_file():
                continue
            size = path.stat().st_size
            content = Content(reader, member)
            for _ in range(5):
                offset = rng.randrange(size + 1)
                length = rng.randrange(min(size - offset, 1 << 20) + 1)
                with path.open("rb") as file:
                    file.seek(offset)
                    expected = file.read(length)
                assert b"".join(content.read(offset, length)) == expected, (path.name, offset, length)
