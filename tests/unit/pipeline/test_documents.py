"""Documents: stored as files of a tar, found again, unguessable, and never taken for what they are not."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from drkit.errors import AccessDenied, CaptureFailed, IntegrityError
from drkit.pipeline.documents import LARGEST, as_json, read_document, write_documents
from drkit.repository.format.digest import keyed_digest
from drkit.repository.format.snapshot import Documents, Snapshot, Target, format_time
from drkit.repository.format.tree import EXTENT, Member, TreeWriter, encode_member
from drkit.repository.keys.wraps import format_meta_key
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from tests.support.independent_reader import IndependentReader
from tests.support.memory_storage import MemoryStorage
from tests.support.meta_view import MetaView
from tests.support.repositories import NOW, create

SALT = bytes(range(32))
FILES = {"volume.json": as_json({"Labels": {"token": "1234"}}), "empty": b"", "x" * 200: b"\x00\xff" * 700}


class Written:
    """A repository, and documents in it."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.repository, self.identity = create(self.storage)

    def write(self, files: dict[str, bytes] | None = None, salt: bytes = SALT) -> Documents:
        """Write documents in a run of their own, and commit it."""
        run_id = os.urandom(8).hex()
        repository = self.opened()
        with RunWriter(repository, run_id, [self.identity.recipient], host="h") as writer:
            documents = write_documents(writer, repository.meta.member, salt, FILES if files is None else files)
            writer.commit(Snapshot(run_id, format_time(NOW), "h", "p", "ok", [], documents=documents))
        return documents

    def opened(self) -> Repository:
        return Repository.open(self.storage, [self.identity])

    def read(self, documents: Documents, name: str, repository: Repository | None = None) -> bytes:
        repository = repository or self.opened()
        with ChunkReader(repository) as reader:
            return read_document(reader, repository.meta.member, documents, name, of="volume db")

    def keys(self) -> set[str]:
        return {key.split("/")[1] for key in self.storage.objects if key.startswith("keys/")}


@pytest.fixture
def written() -> Written:
    return Written()


def test_they_come_back(written: Written) -> None:
    documents = written.write()
    assert {name: written.read(documents, name) for name in FILES} == FILES
    with pytest.raises(IntegrityError, match=r"document policy.yaml of volume db is not there"):
        written.read(documents, "policy.yaml")


def test_tar_extracts_them_and_is_not_disturbed_by_the_salt(written: Written, tmp_path: Path) -> None:
    documents = written.write()
    root = tmp_path / "repository"
    for key, body in written.storage.objects.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(body)
    reader = IndependentReader(root, written.identity.secret_text())
    done = subprocess.run(
        ["tar", "-C", tmp_path, "-xf", "-"], input=reader.tar(documents.tree), capture_output=True, check=True
    )
    assert done.stderr == b""
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == FILES
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in FILES} == {0o600}
    assert reader.documents(documents.tree) == FILES


def test_unchanged_ones_are_not_stored_again_and_make_no_key(written: Written) -> None:
    first = written.write()
    before = set(written.storage.objects)
    keys = written.keys()
    assert written.write() == first
    assert written.keys() == keys
    assert {key.split("/")[0] for key in set(written.storage.objects) - before} == {"snapshots"}
    changed = written.write({**FILES, "empty": b"no more"})
    assert changed != first
    assert len(written.keys()) == len(keys) + 1


def test_each_is_one_chunk(written: Written) -> None:
    """So that every piece of it has the salt."""
    documents = written.write({"large": os.urandom(LARGEST), "small": b"x"})
    repository = written.opened()
    with ChunkReader(repository) as reader:
        members = list(reader.members(Target("documents", "x", tree=documents.tree)))
        chunks = [reader.chunk(chunk_id) for member in members for chunk_id in member.chunk_ids()]
    assert [len(member.extents) for member in members] == [EXTENT.size] * 2
    assert all(SALT.hex().encode() in chunk[:1536] for chunk in chunks)
    with pytest.raises(CaptureFailed, match=f"large has {LARGEST + 1} bytes"):
        written.write({"large": bytes(LARGEST + 1)})


def test_whoever_holds_the_meta_key_confirms_no_guess(written: Written) -> None:
    documents = written.write()
    meta = format_meta_key(written.repository.meta.meta_key, written.repository.id)
    view = MetaView(written.storage, meta)
    intruder, there = view.repository, view.chunk_ids
    with ChunkReader(intruder) as reader:
        members = {member.path: member for member in reader.members(Target("d", "d", tree=documents.tree))}
    member = members[b"volume.json"]
    guesses = {salt: _as_stored("volume.json", FILES["volume.json"], salt) for salt in (SALT, bytes(32), None)}
    found = {
        salt: (intruder.chunks.chunk_id(raw, tree=False) in there, keyed_digest(intruder.meta.member, raw))
        for salt, raw in guesses.items()
    }
    assert found[SALT] == (True, member.digest), "the guess is not made as documents are"
    for salt in (bytes(32), None):
        assert not found[salt][0]
        assert found[salt][1] != member.digest
    with pytest.raises(AccessDenied):
        written.read(documents, "volume.json", intruder)


def _as_stored(name: str, content: bytes, salt: bytes | None) -> bytes:
    """The member of a document, as FORMAT.md tells it; without a salt, as a file of a tar would be."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    if salt is not None:
        entry.pax_headers["comment"] = salt.hex()
    return entry.tobuf(tarfile.PAX_FORMAT) + content.ljust(-(-len(content) // 512) * 512, b"\0")


def test_forged_ones_are_refused(written: Written) -> None:
    """Whoever holds the meta key can write trees and, with a data key of their own, data."""
    repository = written.opened()
    good = _as_stored("volume.json", b"{}", SALT)

    def forged(raw: bytes, *, digest: bytes | None = None, times: int = 1, path: bytes = b"volume.json") -> Documents:
        run_id = os.urandom(8).hex()
        with RunWriter(repository, run_id, [written.identity.recipient], host="h") as writer:
            extents = EXTENT.pack(writer.put_data(raw), 0, len(raw)) * times
            tree = TreeWriter(writer.put_tree)
            digest = digest or keyed_digest(repository.meta.member, raw * times)
            tree.add(encode_member(Member(path, b"f 600 0 0 2 0 0 0 1", b"", b"", digest, False, extents)))
            documents = Documents([chunk_id.hex() for chunk_id in tree.finish()])
            writer.commit(Snapshot(run_id, format_time(NOW), "h", "p", "ok", [], documents=documents))
        return documents

    assert written.read(forged(good), "volume.json") == b"{}"
    for documents, problem in (
        (forged(good, digest=bytes(32)), "does not have its recorded digest"),
        (forged(os.urandom(1 << 20), times=4000, digest=bytes(32)), "has 4194304000 bytes"),
        (forged(b"no tar" * 512), "is not a member of a tar"),
        (forged(good + bytes(512)), "is not a member of a tar"),
        (forged(good[:-512]), "is not a member of a tar"),
        (forged(bytes(1024)), "is not a member of a tar"),
        (forged(good, path=b"./volume.json"), "is not there"),
    ):
        with pytest.raises(IntegrityError, match=f"document volume.json of volume db {problem}"):
            written.read(documents, "volume.json")
