"""Capturing a directory: what tar says of single files, and what comes of it.

The host's own find and tar stand in for a helper's.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.process import HelperProcess
from drkit.errors import CaptureFailed
from drkit.events import Logged
from drkit.pipeline.capture import TORN_RETRIES, Capture, capture_directory
from drkit.pipeline.select import Patterns
from drkit.repository.format.snapshot import Target
from drkit.repository.reader import ChunkReader
from drkit.repository.writer import RunWriter
from tests.support.host_process import HostProcess
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import create

HELPER = HelperImage("sha256:0", "host", "1.34", "amd64", full=True)
MUCH_LATER = 1e12
"""A clock by which every file is settled."""
TORN_B = b"tar: ./b: file changed as we read it\n"


class Foreground:
    """An engine of which a capture asks nothing more."""

    def in_background(self, work: Callable[[], None]) -> None:
        work()


class Counting(Logged):
    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def progress(self, task: str, count: int) -> None:
        self.counts[task] = self.counts.get(task, 0) + count


class Captures:
    """Captures one directory into one repository. `trees` are the tree chunks that the last one put."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._repository, identity = create(MemoryStorage())
        self._recipients = [identity.recipient]
        self.events = Counting()
        self.trees: list[str] = []

    def helper(self, said: bytes = b"", code: int = 0, found: int = 0) -> Callable[[], HostProcess]:
        return lambda: HostProcess(self.root, said, code, found)

    def run(self, *helpers: Callable[[], HostProcess], previous: Target | None = None) -> Target:
        """Capture with these helpers, each of which must be used."""
        target = Target("volume", "x")
        left = list(helpers)
        self.trees = []

        def start() -> HelperProcess:
            return cast("HelperProcess", left.pop(0)())

        with (
            RunWriter(self._repository, os.urandom(8).hex(), self._recipients, host="h") as writer,
            ChunkReader(self._repository) as reader,
        ):
            put = writer.put_tree

            def put_tree(data: bytes) -> bytes:
                self.trees.append(put(data).hex())
                return bytes.fromhex(self.trees[-1])

            writer.put_tree = put_tree  # type: ignore[method-assign]
            engine = cast("Engine", Foreground())
            capture = Capture(engine, self._repository, reader, writer, target, MUCH_LATER, self.events, bytes(32))
            capture_directory(capture, HELPER, start, start, Patterns([]), previous)
            writer.keep()
        assert not left
        self._repository.reload_index()
        return target

    def content(self, target: Target) -> dict[bytes, bytes]:
        with ChunkReader(self._repository) as reader:
            return {member.path: b"".join(reader.extents([member])) for member in reader.members(target)}


@pytest.fixture
def captures(tmp_path: Path) -> Captures:
    root = tmp_path / "root"
    (root / "c").mkdir(parents=True)
    for name in ("a", "b", "c/d"):
        (root / name).write_bytes(name.encode() * 1000)
    return Captures(root)


def test_a_first_capture_and_an_unchanged_one(captures: Captures) -> None:
    first = captures.run(captures.helper())
    content = captures.content(first)
    assert list(content) == [b"", b"a", b"b", b"c", b"c/d"]
    assert b"c/d" * 1000 in content[b"c/d"]
    assert (first.files, first.bytes, first.encoding) == (5, 5000, "1.34, full")
    assert first.tree == captures.trees
    assert first.aligned
    assert captures.events.counts == {"volume x": first.bytes_read}

    second = captures.run(captures.helper(), previous=first)
    assert (second.tree, second.files, second.bytes, second.bytes_read) == (first.tree, 5, 5000, 0)
    assert second.aligned
    assert captures.trees == []
    old = dataclasses.replace(first, aligned=False)
    assert not captures.run(captures.helper(), previous=old).aligned, "a tree that was cut anywhere was taken over"


def test_only_what_changed_is_read(captures: Captures) -> None:
    first = captures.run(captures.helper())
    (captures.root / "a").write_bytes(b"changed")
    (captures.root / "c" / "d").unlink()
    second = captures.run(captures.helper(), previous=first)
    content = captures.content(second)
    assert list(content) == [b"", b"a", b"b", b"c"]
    assert b"changed" in content[b"a"]
    assert second.tree == captures.trees


def test_a_torn_file_that_heals_is_as_it_was_read_last(captures: Captures) -> None:
    def later() -> HostProcess:
        (captures.root / "b").write_bytes(b"healed")
        return captures.helper()()

    target = captures.run(captures.helper(TORN_B, code=1), later)

    assert target.torn.count == 0
    content = captures.content(target)
    assert list(content) == [b"", b"a", b"b", b"c", b"c/d"]
    assert b"healed" in content[b"b"]
    assert (target.files, target.bytes) == (5, 4006)
    assert target.tree == captures.trees, "a tree was made that no snapshot refers to"


def test_a_file_that_stays_torn_is_listed(captures: Captures) -> None:
    target = captures.run(*[captures.helper(TORN_B, code=1)] * (1 + TORN_RETRIES))
    assert target.torn.names == ["b"]
    assert list(captures.content(target)) == [b"", b"a", b"b", b"c", b"c/d"]
    assert target.tree == captures.trees


@pytest.mark.parametrize("said", [b"tar: something new\n", b"tar: ./b: Cannot open: Input/output error\n"])
def test_a_message_that_nobody_knows_fails_the_capture(captures: Captures, said: bytes) -> None:
    with pytest.raises(CaptureFailed, match=r"^volume x: tar: "):
        captures.run(captures.helper(said, code=2))


def test_what_find_met_is_judged_though_nothing_changed(captures: Captures) -> None:
    first = captures.run(captures.helper())
    gone = captures.run(captures.helper(b"find: './e': No such file or directory\n", found=1), previous=first)
    assert list(captures.content(gone)) == list(captures.content(first))
    assert gone.bytes_read > 0
    with pytest.raises(CaptureFailed, match="Permission denied"):
        captures.run(captures.helper(b"find: './e': Permission denied\n", found=1), previous=first)
