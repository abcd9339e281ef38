"""drkit verify on trees that do not say what their stream holds: only a writer with a fault can store them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from drkit.operations.verify import verify_repository
from drkit.repository.format.snapshot import Snapshot, Target, format_time
from drkit.repository.format.tree import Member, TreeWriter, encode_member
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from tests.support.host_tar import capture_directory
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import NOW, create


def store(directory: Path, change: Callable[[list[Member]], list[Member]]) -> Repository:
    """A repository with one snapshot of a directory, its tree changed."""
    for name in ("a", "b", "c"):
        (directory / name).write_text(name)
    storage = MemoryStorage()
    repository, identity = create(storage)
    with RunWriter(repository, "run", [identity.recipient], host="host") as writer, ChunkReader(repository) as reader:
        target = Target("volume", "data")
        capture_directory(repository, writer, target, directory)
        writer.flush()
        tree = TreeWriter(writer.put_tree)
        for member in change(list(reader.members(target))):
            tree.add(encode_member(member))
        target.tree = [chunk_id.hex() for chunk_id in tree.finish()]
        writer.commit(Snapshot("run", format_time(NOW), "host", "policy", "ok", [target]))
    return Repository.open(storage, [identity])


def test_a_true_tree(tmp_path: Path) -> None:
    assert verify_repository(store(tmp_path, lambda members: members), None, lambda count: None).ok


@pytest.mark.parametrize("name", [b"a", b"c"])
def test_a_member_that_holds_another_one_too_is_named(tmp_path: Path, name: bytes) -> None:
    def change(members: list[Member]) -> list[Member]:
        more = members[2].extents
        return [member._replace(extents=member.extents + more) if member.path == name else member for member in members]

    report = verify_repository(store(tmp_path, change), None, lambda count: None)
    assert not report.ok
    [finding] = report.findings.values()
    assert "do not make up a tar stream" in finding.problem
    [file] = finding.files
    assert file.endswith(name.decode())
