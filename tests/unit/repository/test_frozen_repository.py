"""Format 1 for ever: a repository made by the first version is read by this one, and by FORMAT.md alone.

What drkit writes today is read by FORMAT.md alone too: so that text is right, and complete.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from drkit.operations.keys import add_recipient
from drkit.operations.verify import verify_repository
from drkit.repository.check import check_repository
from drkit.repository.format.snapshot import Snapshot, Target, format_time
from drkit.repository.keys.identity import Identity, generate_identity, parse_identity
from drkit.repository.keys.wraps import open_escrow
from drkit.repository.proofs import add_proof
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.storage import open_storage
from tests.support import independent_reader
from tests.support.host_tar import capture_directory, extract_tar
from tests.support.independent_reader import IndependentReader
from tests.support.repositories import NOW, create, write_snapshot
from tests.support.torture import make_torture_tree
from tests.support.treecompare import compare_trees

PROJECT = Path(__file__).resolve().parents[3]
GOLDEN = PROJECT / "tests" / "golden" / "repository-1"
FORMAT = PROJECT / "drkit" / "repository" / "FORMAT.md"
FIRST, SECOND = "20250309t010203z-00c0ffee", "20250310t010203z-00decade"
END = bytes(1024)


def expected(name: str) -> object:
    return json.loads((GOLDEN / "expected.json").read_text())[name]


def identity_text() -> str:
    return (GOLDEN / "identity.txt").read_text()


def identity() -> Identity:
    return parse_identity(identity_text(), source="identity.txt")


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """A copy: git keeps no modes, and no test may change the original."""
    directory = tmp_path / "frozen"
    shutil.copytree(GOLDEN / "repository", directory)
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o400)
    return directory


def opened(directory: Path) -> Repository:
    return Repository.open(open_storage(str(directory)), [identity()])


def target_of(repository: Repository, run_id: str, name: str) -> Target:
    snapshots = [snapshot for snapshot in repository.snapshots() if isinstance(snapshot, Snapshot)]
    [snapshot] = [snapshot for snapshot in snapshots if snapshot.id == run_id]
    [target] = [target for target in snapshot.targets if target.name == name]
    return target


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- the frozen repository --------------------------------------------------------------------------------------------


def test_it_is_small_and_complete() -> None:
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    stored = [path.relative_to(GOLDEN).parts for path in files]
    kinds = {parts[1] for parts in stored if parts[0] == "repository"}
    assert {"config", "keys", "packs", "index", "snapshots"} <= kinds


def test_every_tar_is_what_it_was(frozen: Path) -> None:
    repository = opened(frozen)
    tars: dict[str, dict[str, str]] = {}
    with ChunkReader(repository) as reader:
        for snapshot in repository.snapshots():
            assert isinstance(snapshot, Snapshot)
            for target in snapshot.targets:
                raw = b"".join(reader.extents(reader.members(target))) + END
                tars.setdefault(snapshot.id, {})[target.name] = sha256(raw)
    assert tars == expected("tars")
    assert repository.damage == []


def test_its_records_are_what_they_were(frozen: Path) -> None:
    volume = target_of(opened(frozen), SECOND, "shop_data")
    assert (volume.kind, volume.status, volume.encoding) == ("volume", "ok", "GNU tar 1.34, full")
    assert (volume.skipped.count, volume.skipped.names) == (1, ["socket"])
    assert volume.source["Labels"] == {"app": "shop"}
    [first, second] = opened(frozen).snapshots()  # and no tombstone
    assert isinstance(first, Snapshot)
    assert isinstance(second, Snapshot)
    assert (first.id, first.time, first.host) == (FIRST, "2025-03-09T01:02:03.456789Z", "host-1")
    assert second.policy_text == "version: 1\nname: shop\n"


def test_it_is_whole(frozen: Path) -> None:
    assert check_repository(opened(frozen)).ok
    assert verify_repository(opened(frozen), None).ok


def test_every_key_opens_it(frozen: Path) -> None:
    storage = open_storage(str(frozen))
    escrow = open_escrow(storage, str(expected("passphrase")))
    assert escrow.recipient == parse_identity((GOLDEN / "escrow-identity.txt").read_text(), source="x").recipient
    assert check_repository(Repository.open(storage, [escrow])).ok
    meta_key = (GOLDEN / "meta-key.json").read_text()
    assert check_repository(Repository.open_write_only(storage, meta_key, source="meta-key.json")).ok


def test_the_second_snapshot_takes_over_from_the_first(frozen: Path) -> None:
    repository = opened(frozen)
    with ChunkReader(repository) as reader:
        before, after = (
            {member.path: member for member in reader.members(target_of(repository, run_id, "shop_data"))}
            for run_id in (FIRST, SECOND)
        )
    assert after.keys() - before.keys() == {b"new"}
    assert before.keys() - after.keys() == {b"empty"}
    assert after[b"a-b"] == before[b"a-b"]
    assert after[b"a/hard"].leader == b"a-b"
    assert after[b"plain.txt"].digest != before[b"plain.txt"].digest


def test_it_goes_on(frozen: Path) -> None:
    """This version adds a snapshot, and both it and the old ones are read."""
    content = {"v": {b"": bytes(512), b"a": b"content" * 100}}
    write_snapshot(opened(frozen), [identity().recipient], "20260101t000000z-00000000", content)
    assert len(IndependentReader(frozen, identity_text()).snapshots()) == 3
    assert check_repository(opened(frozen)).ok


def test_labels_and_proofs_are_added_to_it_and_read(frozen: Path) -> None:
    """As FORMAT.md has them; what was there stays as it was, byte for byte."""
    before = {path: path.read_bytes() for path in frozen.rglob("*") if path.is_file()}
    added = generate_identity()
    add_recipient(opened(frozen), added.recipient, "safe")
    content = {"v": {b"": bytes(512), b"a": b"content" * 100}}
    recipients = [identity().recipient, added.recipient]
    write_snapshot(opened(frozen), recipients, "20260101t000000z-00000000", content)
    for number in range(3):
        add_proof(opened(frozen), "later", {"number": number}, now=NOW, host="h", version="9")
    reader = IndependentReader(frozen, added.secret_text())
    assert len(reader.snapshots()) == 3
    assert [proof["about"]["number"] for proof in reader.proofs()] == [0, 1, 2]
    labels = reader.recipients()
    assert len(labels) == 4  # the meta key, two data keys that were there, and the new one
    assert all(added.recipient in wraps.values() for wraps in labels.values())
    assert sum(identity().recipient in wraps.values() for wraps in labels.values()) == 1
    assert {path: path.read_bytes() for path in before} == before
    assert check_repository(opened(frozen)).ok


def test_the_tar_is_extracted(frozen: Path, tmp_path: Path) -> None:
    repository = opened(frozen)
    with ChunkReader(repository) as reader:
        archive = b"".join(reader.extents(reader.members(target_of(repository, SECOND, "shop_data")))) + END
    extract_tar(archive, tmp_path / "volume")
    root = tmp_path / "volume"
    assert (root.stat().st_mode & 0o7777, root.stat().st_uid) == (0o2751, 999)
    assert (root / "sparse").stat().st_size == (9 << 30) + 3
    assert (root / "sparse").stat().st_blocks < 1000
    assert (root / "a" / "hard").samefile(root / "a-b")
    assert (root / "plain.txt").read_text() == "other text\n"
    assert (root / "new\nline").read_text() == "new\nline"


# --- FORMAT.md is enough ----------------------------------------------------------------------------------------------


def test_the_independent_reader_knows_nothing_of_drkit() -> None:
    tree = ast.parse(Path(independent_reader.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {"pyrage", "blake3", "msgpack"} <= imported
    assert not any(name.startswith(("drkit", "tests")) for name in imported)


def test_format_md_is_enough_to_read_the_frozen_repository() -> None:
    reader = IndependentReader(GOLDEN / "repository", identity_text())
    tars = {
        run_id: {target["name"]: sha256(reader.tar(target["tree"])) for target in record["targets"]}
        for run_id, record in reader.snapshots().items()
    }
    assert tars == expected("tars")
    archive = reader.tar(reader.snapshots()[SECOND]["targets"][0]["tree"])
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened_tar:
        names = opened_tar.getnames()
        content = opened_tar.extractfile("./a/x")
        assert content is not None
        assert content.read() == b"ordering trap\n"
        assert opened_tar.getmember("./sparse").size == (9 << 30) + 3
    assert len(names) == reader.snapshots()[SECOND]["targets"][0]["files"]


@pytest.mark.slow
def test_format_md_is_enough_to_read_what_drkit_writes(tmp_path: Path, rng: random.Random) -> None:
    """A volume with everything in it, in two snapshots, the second of which takes most over from the first."""
    volume = tmp_path / "volume"
    volume.mkdir()
    for path in make_torture_tree(volume, rng, many=50, huge_files=False).sockets:
        (volume / os.fsdecode(path)).unlink()
    storage = open_storage(str(tmp_path / "repository"), create=True)
    repository, owner = create(storage)
    target: Target | None = None
    for run_id in ("1", "2"):
        if target is not None:
            (volume / "names" / "between").write_text("the snapshots")
        previous, target = target, Target("volume", "v")
        with RunWriter(Repository.open(storage, [owner]), run_id, [owner.recipient], host="h") as writer:
            plan = capture_directory(repository, writer, target, volume, previous=previous)
            writer.commit(Snapshot(run_id, format_time(NOW), "h", "p", "ok", [target]))
    assert 0 < plan.reads < 10
    repository = Repository.open(storage, [owner])
    reader = IndependentReader(tmp_path / "repository", owner.secret_text())
    for run_id, record in reader.snapshots().items():
        with ChunkReader(repository) as ours:
            raw = b"".join(ours.extents(ours.members(target_of(repository, run_id, "v")))) + END
        assert reader.tar(record["targets"][0]["tree"]) == raw
    entries = list(reader.entries(reader.snapshots()["2"]["targets"][0]["tree"]))
    assert [entry.path for entry in entries] == sorted(entry.path for entry in entries)
    assert entries[0].path == b""
    extract_tar(raw, tmp_path / "restored")
    assert compare_trees(volume, tmp_path / "restored") == []


def test_the_program_in_format_md(tmp_path: Path) -> None:
    [program] = re.findall(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    (tmp_path / "by_hand.py").write_text(program)

    def by_hand(*arguments: str) -> bytes:
        command = [sys.executable, "by_hand.py", str(GOLDEN / "repository"), str(GOLDEN / "identity.txt"), *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout

    assert by_hand().decode().splitlines() == [
        f"{FIRST} volume:shop_data image:app:1",
        f"{SECOND} volume:shop_data image:app:1",
    ]
    tars = {run: {name: sha256(by_hand(run, name)) for name in ("shop_data", "app:1")} for run in (FIRST, SECOND)}
    assert tars == expected("tars")
