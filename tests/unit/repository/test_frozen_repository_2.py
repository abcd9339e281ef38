"""The second frozen repository and its mirror: what format 1 took up last is read for ever, and by FORMAT.md alone."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drkit.catalog.find import find_snapshot
from drkit.operations.verify import verify_repository
from drkit.pipeline.documents import read_document
from drkit.repository.absence import missing_in
from drkit.repository.check import check_repository
from drkit.repository.forgot import read_forgotten
from drkit.repository.format.snapshot import Snapshot, stored_trees
from drkit.repository.keys.identity import parse_identity
from drkit.repository.keys.wraps import open_escrow
from drkit.repository.lines import forks, lines_of
from drkit.repository.proofs import Proof, read_proofs
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.storage import open_storage
from tests.golden.make_repository_2 import NEW, OLD, RUNS
from tests.support.independent_reader import IndependentReader

PROJECT = Path(__file__).resolve().parents[3]
GOLDEN = PROJECT / "tests" / "golden" / "repository-2"
IDENTITY = (GOLDEN / "identity.txt").read_text()
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())
BOTH = pytest.mark.parametrize("place", ["repository", "mirror"])


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """A copy: git keeps no modes, and no test may change the original."""
    directory = tmp_path / "frozen"
    shutil.copytree(GOLDEN, directory)
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o400)
    return directory


def opened(directory: Path) -> Repository:
    return Repository.open(open_storage(str(directory)), [parse_identity(IDENTITY, source="identity.txt")])


def records(repository: Repository) -> list[Snapshot]:
    found = list(repository.snapshots())
    assert all(isinstance(each, Snapshot) for each in found)
    return [each for each in found if isinstance(each, Snapshot)]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_it_holds_what_the_first_one_lacks() -> None:
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 500_000
    kinds = {path.relative_to(GOLDEN / "repository").parts[0] for path in (GOLDEN / "repository").rglob("*")}
    assert kinds == {"config", "keys", "packs", "index", "snapshots", "sessions", "marks", "proofs", "forgot"}


@BOTH
def test_every_tree_is_what_it_was(frozen: Path, place: str) -> None:
    repository = opened(frozen / place)
    trees: dict[str, dict[str, str]] = {}
    with ChunkReader(repository) as reader:
        for snapshot in records(repository):
            for target in stored_trees(snapshot):
                raw = b"".join(reader.extents(reader.members(target))) + bytes(1024)
                trees.setdefault(snapshot.original, {})[target.title] = sha256(raw)
    assert trees == EXPECTED["trees"]
    assert repository.damage == []


@BOTH
def test_it_is_whole(frozen: Path, place: str) -> None:
    repository = opened(frozen / place)
    report = check_repository(repository)
    assert report.ok
    notes = {key.split("/")[0] for key in report.notes}
    assert notes == ({"keys", "marks", "sessions"} if place == "repository" else set())
    assert verify_repository(opened(frozen / place), None).ok


@BOTH
def test_its_history_is_one_line(frozen: Path, place: str) -> None:
    repository = opened(frozen / place)
    found = records(repository)
    [line] = lines_of(found)
    assert line.origins == (NEW.public.hex(), OLD.public.hex())
    assert [each.original for each in line.snapshots] == list(RUNS)
    assert [each.sequence for each in line.snapshots] == [2, 3, 4]
    assert forks(found) == []
    assert missing_in(repository, found) == []
    assert find_snapshot(repository, "latest").original == RUNS[2]
    [ranges] = [
        ranges for owner, ranges in read_forgotten(repository).ranges.items() if owner.origin == OLD.public.hex()
    ]
    assert ranges == [(1, 1)]
    assert all(target.aligned for each in found for target in each.targets if target.kind == "volume")


def test_its_documents_and_proofs_and_keys(frozen: Path) -> None:
    repository = opened(frozen / "repository")
    newest = records(repository)[-1]
    [volume] = [target for target in newest.targets if target.kind == "volume"]
    with ChunkReader(repository) as reader:
        member = repository.meta.member
        text = read_document(reader, member, volume.documents, "volume.json", of=volume.title)
        assert json.loads(text)["Labels"] == {"app": "shop", "secret": "label value"}
        assert read_document(reader, member, newest.documents, "policy.yaml", of="the run").startswith(b"version: 1")
    proofs = [proof for proof in read_proofs(repository) if isinstance(proof, Proof)]
    assert [(proof.number, proof.kind) for proof in proofs] == [(1, "key"), (2, "drill")]
    escrow = open_escrow(open_storage(str(frozen / "mirror")), EXPECTED["passphrase"])
    assert len(records(Repository.open(open_storage(str(frozen / "mirror")), [escrow]))) == 3
    text = (GOLDEN / "meta-key.json").read_text()
    write_only = Repository.open_write_only(open_storage(str(frozen / "repository")), text, source="meta-key.json")
    assert check_repository(write_only).ok


# --- FORMAT.md is enough ----------------------------------------------------------------------------------------------


@BOTH
def test_format_md_is_enough_to_read_it(place: str) -> None:
    reader = IndependentReader(GOLDEN / place, IDENTITY)
    assert reader.lying == set()
    hashes = set()
    for record in reader.snapshots().values():
        trees = [tree for tree in reader.trees(record) if tree]
        assert len(trees) == 5  # two targets, the helper, the documents of the run and of the volume
        hashes |= {sha256(reader.tar(tree)) for tree in trees}
        [volume] = [target for target in record["targets"] if target["kind"] == "volume"]
        assert reader.documents(record["documents"]["tree"]) == {"policy.yaml": b"version: 1\nname: shop\n"}
        assert json.loads(reader.documents(volume["documents"]["tree"])["volume.json"])["Name"] == "shop_data"
    assert hashes == {digest for trees in EXPECTED["trees"].values() for digest in trees.values()}
    assert {record.get("copy_of", record["id"]) for record in reader.snapshots().values()} == set(RUNS)
    assert reader.forgotten()[OLD.public.hex(), "host-1", "shop"] == {1}
    labels = reader.recipients()
    assert {"meta", "escrow"} < labels.keys()
    if place == "repository":
        assert [proof["kind"] for proof in reader.proofs()] == ["key", "drill"]
        assert reader.marks() == {"20261130t020304z-0000dead": {bytes(range(32))}}
        assert reader.sessions()["20261130t020304z-0000dead"]["prune"] is True


def test_the_program_in_format_md_reads_it(tmp_path: Path) -> None:
    text = (PROJECT / "drkit" / "repository" / "FORMAT.md").read_text()
    [program] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "by_hand.py").write_text(program)
    command = [sys.executable, "by_hand.py", str(GOLDEN / "mirror"), str(GOLDEN / "identity.txt")]
    lines = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.split(" ")[1:] for line in lines] == [["volume:shop_data", "image:app:1"]] * 3
    newest = lines[-1].split(" ")[0]
    raw = subprocess.run([*command, newest, "shop_data"], cwd=tmp_path, check=True, capture_output=True).stdout
    assert sha256(raw) == EXPECTED["trees"][RUNS[2]]["volume shop_data"]
