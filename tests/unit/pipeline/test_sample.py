"""The sample of restored files that is read plainly: what it holds, and what it finds."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from drkit.engine.helper.process import HelperProcess
from drkit.errors import IntegrityError
from drkit.pipeline.sample import PIECE, choose_sample, compare_sample, plain_digests
from drkit.pipeline.scan import read_scan
from drkit.pipeline.select import Patterns
from drkit.repository.format.snapshot import Target
from drkit.repository.format.tree import Member
from drkit.repository.reader import ChunkReader
from drkit.repository.writer import RunWriter
from tests.support.host_process import HostProcess
from tests.support.host_tar import capture_directory, scan_directory
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import create


@pytest.fixture
def root(tmp_path: Path, rng: random.Random) -> Path:
    root = tmp_path / "root"
    for number in range(300):
        path = root / f"{number % 10}" / f" odd name {number} "
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(3000)))
    for number in range(6):
        (root / f"large {number}").write_bytes(rng.randbytes(PIECE + 100_000 * number + 1))
    for number in range(5):
        with (root / f"sparse{number}").open("wb") as file:
            file.seek(rng.randrange(8 * PIECE))
            file.write(b"island" * 1000)
            file.truncate(1 << 40)
    (root / "new\nline").write_bytes(b"x")
    (root / "back\\slash").write_bytes(b"x")
    (root / "0" / "link").hardlink_to(root / "large 5")
    return root


class Restored:
    """A directory, what a repository holds of it, and a helper that reads a sample of it."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        repository, identity = create(MemoryStorage())
        target = Target("volume", "x")
        with RunWriter(repository, os.urandom(8).hex(), [identity.recipient], host="h") as writer:
            capture_directory(repository, writer, target, root)
            writer.keep()
        repository.reload_index()
        self.reader = stack.enter_context(ChunkReader(repository))
        self.members: dict[bytes, Member] = {
            member.path: member for member in self.reader.members(target) if not member.leader
        }

    def compare(self, seed: int) -> int:
        with HostProcess(self.root, sampled=True) as process:
            helper = cast("HelperProcess", process)
            scan = read_scan(process.readinto, Patterns([]), what="volume x", full=True)
            digests = plain_digests(helper, choose_sample(scan, seed), what="volume x")
            assert digests is not None
        return compare_sample(self.reader, self.members, digests, what="volume x")


@pytest.fixture
def restored(root: Path) -> Iterator[Restored]:
    with ExitStack() as stack:
        yield Restored(root, stack)


def test_what_a_sample_holds(root: Path) -> None:
    scan = scan_directory(root)
    sample = choose_sample(scan, 7)
    assert sample == choose_sample(scan, 7) != choose_sample(scan, 8)
    pieces = list(sample.pieces())
    assert 20 < len(pieces) <= 64
    assert sum(piece.length for piece in pieces) <= 64 << 20
    assert {piece.offset for piece in sample.whole} == {0}
    assert max(piece.length for piece in pieces) == PIECE
    names = [os.fsdecode(piece.path) for piece in sample.parts]
    # The largest are sparse here, so they are there as both.
    assert sum(name.startswith("sparse") for name in names) == len(names) == 12
    assert choose_sample(scan_directory(root / "0"), 1).parts
    assert not any(b"\n" in piece.path or b"\\" in piece.path for piece in pieces)


def test_of_few_files_all_are_read(tmp_path: Path) -> None:
    for number in range(48):
        (tmp_path / f"{number}").write_bytes(b"x")
    assert {piece.path for piece in choose_sample(scan_directory(tmp_path), 1).whole} == {b"%d" % n for n in range(48)}


@pytest.mark.parametrize("name", ["Icon\r", "a\rb", "a\r\nb", "a\\b", "a\nb", "\x0b\x0c\x1c\x85"])
def test_a_name_that_the_helper_would_not_answer_as_it_is(tmp_path: Path, name: str) -> None:
    """sha256sum escapes some of them."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / name).write_bytes(b"x")
    (tmp_path / "root" / "other").write_bytes(b"y")
    with ExitStack() as stack:
        assert Restored(tmp_path / "root", stack).compare(1) >= 1


def test_nothing_to_choose_from(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert list(choose_sample(scan_directory(tmp_path), 1).pieces()) == []


def test_what_is_restored_is_what_is_stored(restored: Restored) -> None:
    for seed in range(5):
        assert restored.compare(seed) > 20


@pytest.mark.parametrize("kind", ["content", "gone", "cut"])
def test_a_file_that_reads_differently_is_named(restored: Restored, kind: str) -> None:
    scan = scan_directory(restored.root)
    piece = next(piece for piece in choose_sample(scan, 3).whole if piece.length > 100)
    path = restored.root / os.fsdecode(piece.path)

    class Changing(HostProcess):
        def write(self, data: bytes) -> None:
            if kind == "content":
                path.write_bytes(bytes(piece.length))
            elif kind == "gone":
                path.unlink()
            else:
                os.truncate(path, piece.length - 1)
            super().write(data)

    with Changing(restored.root, sampled=True) as process:
        helper = cast("HelperProcess", process)
        scan = read_scan(process.readinto, Patterns([]), what="volume x", full=True)
        with pytest.raises(IntegrityError) as raised:
            digests = plain_digests(helper, choose_sample(scan, 3), what="volume x")
            compare_sample(restored.reader, restored.members, digests or {}, what="volume x")
    assert os.fsdecode(piece.path) in raised.value.message
    assert ("could not be read" in raised.value.message) is (kind == "gone")


def test_a_part_that_reads_differently_is_named(restored: Restored) -> None:
    sample = choose_sample(scan_directory(restored.root), 4)
    piece = sample.parts[0]
    path = restored.root / os.fsdecode(piece.path)
    with path.open("r+b") as file:
        file.seek(piece.offset + piece.length - 1)
        file.write(b"?")
    with pytest.raises(IntegrityError, match=os.fsdecode(piece.path)):
        restored.compare(4)


def test_an_image_without_the_programs_says_so(restored: Restored, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("find", "tar", "sha256sum"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    with HostProcess(restored.root, sampled=True, programs=str(programs)) as process:
        scan = read_scan(process.readinto, Patterns([]), what="volume x", full=True)
        assert plain_digests(cast("HelperProcess", process), choose_sample(scan, 1), what="volume x") is None
