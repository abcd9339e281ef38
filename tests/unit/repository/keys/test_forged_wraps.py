"""Anybody can wrap a key of their own for a public recipient: it must harm nobody, and send nobody to good packs."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from drkit.errors import IntegrityError
from drkit.operations.keys import add_recipient, key_list, rewrap_keys
from drkit.repository.check import check_repository
from drkit.repository.holders.every_key import open_every_key
from drkit.repository.keys.identity import Identity, generate_identity, parse_identity
from drkit.repository.keys.wraps import META_PREFIX, data_key_prefix, data_key_wraps
from drkit.repository.repository import CONFIG, Repository
from drkit.storage import open_storage
from tests.support.forgery import forge_wrap as forge
from tests.support.independent_reader import IndependentReader
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import create, random_content, read_everything, write_snapshot

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "repository-1"


@pytest.fixture
def made(rng: random.Random) -> tuple[MemoryStorage, Identity]:
    storage = MemoryStorage()
    repository, owner = create(storage)
    write_snapshot(repository, [owner.recipient], "20250309t010203z-00000001", {"v": random_content(rng)})
    return storage, owner


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("what", ["meta", "data"])
def test_a_wrong_key_beside_the_right_one_changes_nothing(
    made: tuple[MemoryStorage, Identity], what: str, first: bool
) -> None:
    storage, owner = made
    whole = Repository.open(storage, [owner])
    before = read_everything(whole)
    [data_key] = {each.key_id for each in data_key_wraps(storage)}
    prefix = META_PREFIX if what == "meta" else data_key_prefix(data_key)
    forged = forge(storage, whole.id, prefix, owner.recipient, first=first)
    opened = Repository.open(storage, [owner])
    assert read_everything(opened) == before
    report = check_repository(opened)
    assert report.ok
    assert "another key" in report.notes[forged]
    assert open_every_key(opened).keys == 2
    [holder] = key_list(opened).holders
    assert (holder.recipient, holder.opens) == (owner.recipient, 2)
    deputy = generate_identity()
    add_recipient(opened, deputy.recipient)
    assert read_everything(Repository.open(storage, [deputy])) == before
    rewrap_keys(Repository.open(storage, [owner]), [owner.recipient, deputy.recipient])
    assert read_everything(Repository.open(storage, [owner])) == before


def test_a_wrong_key_alone_blames_its_wraps_and_no_pack(made: tuple[MemoryStorage, Identity]) -> None:
    storage, owner = made
    repository = Repository.open(storage, [owner])
    [data_key] = {each.key_id for each in data_key_wraps(storage)}
    prefix = data_key_prefix(data_key)
    right = [info.key for info in storage.list(prefix)]
    forge(storage, repository.id, prefix, owner.recipient, first=True)
    for key in right:
        storage.delete(key)
    opened = Repository.open(storage, [owner])
    report = check_repository(opened)
    assert list(report.findings) == [prefix]
    with pytest.raises(IntegrityError) as caught:
        read_everything(opened)
    assert (caught.value.object_name, "packs/" in str(caught.value)) == (prefix, False)


def test_wrong_meta_keys_alone_and_a_changed_config_say_so(made: tuple[MemoryStorage, Identity]) -> None:
    storage, owner = made
    repository = Repository.open(storage, [owner])
    right = [info.key for info in storage.list(META_PREFIX)]
    forged = forge(storage, repository.id, META_PREFIX, owner.recipient, first=True)
    for key in right:
        storage.delete(key)
    with pytest.raises(IntegrityError, match="does not authenticate with any key") as caught:
        Repository.open(storage, [owner])
    assert forged in str(caught.value)
    assert caught.value.object_name == CONFIG


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_an_earlier_versions_random_ids_are_settled_by_a_chunk(tmp_path: Path, first: bool) -> None:
    frozen = tmp_path / "frozen"
    shutil.copytree(GOLDEN / "repository", frozen)
    identity = parse_identity((GOLDEN / "identity.txt").read_text(), source="identity.txt")
    storage = open_storage(str(frozen))
    repository = Repository.open(storage, [identity])
    assert not repository.derived_key_ids
    before = read_everything(repository)
    for key_id in {each.key_id for each in data_key_wraps(storage)}:
        forge(storage, repository.id, data_key_prefix(key_id), identity.recipient, first=first)
    forge(storage, repository.id, META_PREFIX, identity.recipient, first=first)
    assert read_everything(Repository.open(storage, [identity])) == before
    assert open_every_key(Repository.open(storage, [identity])).keys == 3
    reader = IndependentReader(frozen, (GOLDEN / "identity.txt").read_text())
    assert all(reader.tar(target["tree"]) for record in reader.snapshots().values() for target in record["targets"])
