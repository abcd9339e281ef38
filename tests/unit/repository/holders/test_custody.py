"""Who opens which key, changing that, and the proofs of it."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest

from drkit.errors import AccessDenied, DrkitError, IntegrityError, ObjectExists, StorageUnavailable, UsageError
from drkit.operations.context import Context
from drkit.operations.keys import (
    add_recipient,
    key_list,
    prove,
    remove_recipient,
    rewrap_keys,
    unlocked_identity,
    write_host_key,
)
from drkit.repository.check import check_repository
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.holders.custody import grant, read_custody, replace_escrow
from drkit.repository.holders.every_key import open_every_key
from drkit.repository.holders.recipients import compare_recipients
from drkit.repository.keys.identity import Identity, generate_identity, parse_identity
from drkit.repository.keys.labels import LABEL_PREFIX, Holder
from drkit.repository.keys.wraps import META_PREFIX, put_escrow, put_key
from drkit.repository.proofs import PROOF_PREFIX, Proof, add_proof, read_proofs
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.storage import open_storage
from drkit.storage.base import ObjectInfo
from tests.support.faulty_storage import Call, FaultyStorage
from tests.support.independent_reader import IndependentReader
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import NOW, create, random_content, read_everything, write_snapshot

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "repository-1"


class Made:
    """A repository of one identity with two data keys."""

    def __init__(self, rng: random.Random) -> None:
        self.storage = MemoryStorage()
        _, self.owner = create(self.storage)
        for run in ("1", "2"):
            write_snapshot(self.open(), [self.owner.recipient], run, {"v": random_content(rng, files=3)})

    def open(self, *identities: Identity) -> Repository:
        return Repository.open(self.storage, identities or (self.owner,))

    def write_only(self) -> Repository:
        return Repository(self.storage, _config(self.storage), self.open().meta.meta_key, ())

    def wraps_of(self, identity: Identity, prefix: str = "keys/") -> list[str]:
        keys = [key for key in self.storage.objects if key.startswith(prefix) and not key.startswith(LABEL_PREFIX)]
        return [key for key in keys if identity.unwrap(self.storage.objects[key]) is not None]

    def delete(self, prefix: str) -> None:
        for key in [key for key in self.storage.objects if key.startswith(prefix)]:
            del self.storage.objects[key]


def _config(storage: MemoryStorage):  # type: ignore[no-untyped-def]
    from drkit.repository.repository import read_config

    return read_config(storage)


@pytest.fixture
def made(rng: random.Random) -> Made:
    return Made(rng)


@pytest.fixture
def bob() -> Identity:
    return generate_identity()


# --- recipients -------------------------------------------------------------------------------------------------------


def test_a_recipient_comes_and_opens_everything(made: Made, bob: Identity) -> None:
    changed = add_recipient(made.open(), bob.recipient, "safe")
    assert (changed.made, changed.keys) == (3, 3)
    assert read_everything(made.open(bob)) == read_everything(made.open())
    found = {holder.recipient: holder for holder in key_list(made.open(bob)).holders}
    assert found[bob.recipient].name == "safe"
    assert found[bob.recipient].complete(3)
    assert found.keys() == {bob.recipient, made.owner.recipient}
    before = dict(made.storage.objects)
    assert add_recipient(made.open(), bob.recipient).made == 0
    assert made.storage.objects == before


def test_data_keys_come_first_and_the_meta_key_last(made: Made, bob: Identity) -> None:
    storage = FaultyStorage(made.storage)
    repository = Repository.open(storage, [made.owner])
    storage.calls.clear()
    add_recipient(repository, bob.recipient)
    puts = [call.key for call in storage.calls if call.kind == "put"]
    wraps = [key for key in puts if not key.startswith(LABEL_PREFIX)]
    assert [key.startswith(META_PREFIX) for key in wraps] == [False, False, True]
    assert puts[0].startswith(LABEL_PREFIX)


def test_what_broke_off_is_shown_and_finished(made: Made, bob: Identity) -> None:
    storage = FaultyStorage(made.storage)
    repository = Repository.open(storage, [made.owner])
    storage.fail(StorageUnavailable("gone"), kind="put", prefix=META_PREFIX)
    with pytest.raises(StorageUnavailable):
        add_recipient(repository, bob.recipient, "safe")
    with pytest.raises(AccessDenied):
        made.open(bob)
    [half] = [holder for holder in key_list(made.open()).holders if holder.recipient == bob.recipient]
    assert (half.opens, half.meta, half.complete(3)) == (2, False, False)
    assert add_recipient(made.open(), bob.recipient, "safe").made == 1
    assert read_everything(made.open(bob))


def test_a_run_that_begins_meanwhile_is_not_forgotten(made: Made, bob: Identity, rng: random.Random) -> None:
    """It wraps its data key for the recipients that it knew."""
    content = {"v": random_content(rng, files=2)}
    repository = made.open()
    writer: list[RunWriter] = []

    def on_call(call: Call) -> None:
        if call.kind == "put" and call.key.startswith(META_PREFIX) and not writer:
            writer.append(RunWriter(repository, "3", [made.owner.recipient], host="h"))
            writer[0].put_data(content["v"][b""])
            writer[0].flush()

    storage = FaultyStorage(made.storage, on_call=on_call)
    assert add_recipient(Repository.open(storage, [made.owner]), bob.recipient).made == 4
    writer[0].__exit__(None, None, None)
    assert open_every_key(made.open(bob)).keys == 4


def test_a_damaged_wrap_is_made_anew(made: Made, bob: Identity) -> None:
    add_recipient(made.open(), bob.recipient)
    [key] = made.wraps_of(bob, META_PREFIX)
    made.storage.objects[key] = made.storage.objects[key][:-1]
    assert not check_repository(made.open()).ok
    changed = rewrap_keys(made.open(), [made.owner.recipient, bob.recipient])
    assert (changed.made, changed.removed) == (1, 1)
    assert check_repository(made.open(bob)).ok


def test_a_storage_that_keeps_no_wrap_ends_it(made: Made, bob: Identity) -> None:
    class Forgetful(FaultyStorage):
        """Shows what it was given once, and never again."""

        def stat(self, key: str) -> ObjectInfo:
            found = super().stat(key)
            self.inner.delete(key)
            return found

    repository = Repository.open(Forgetful(made.storage), [made.owner])
    with pytest.raises(IntegrityError, match="does not read back"):
        grant(repository, [Holder(bob.recipient)])


def test_a_recipient_goes_the_meta_key_first(made: Made, bob: Identity) -> None:
    add_recipient(made.open(), bob.recipient, "safe")
    storage = FaultyStorage(made.storage)
    repository = Repository.open(storage, [made.owner])
    assert remove_recipient(repository, "safe").removed == 3
    deleted = [call.key for call in storage.calls if call.kind == "delete"]
    assert deleted[0].startswith(META_PREFIX)
    assert made.wraps_of(bob) == []
    assert len(made.wraps_of(made.owner)) == 3
    assert [holder.recipient for holder in key_list(made.open()).holders] == [made.owner.recipient]
    assert check_repository(made.open()).ok


def test_nobody_removes_the_last_one_or_himself(made: Made, bob: Identity) -> None:
    before = dict(made.storage.objects)
    with pytest.raises(DrkitError, match="is the last recipient"):
        remove_recipient(made.open(), made.owner.recipient)
    assert made.storage.objects == before
    add_recipient(made.open(), bob.recipient, "safe")
    before = dict(made.storage.objects)
    with pytest.raises(DrkitError, match="nothing was removed"):
        remove_recipient(made.open(), made.owner.recipient)
    with pytest.raises(DrkitError, match="is not a recipient"):
        remove_recipient(made.open(), generate_identity().recipient)
    assert made.storage.objects == before
    assert remove_recipient(made.open(bob), made.owner.recipient).removed == 3
    assert read_everything(made.open(bob))


def test_a_label_that_lies_takes_no_key_away(made: Made, bob: Identity) -> None:
    """Who has the meta key can write labels: here they call all of the owner's wraps bob's."""
    from drkit.repository.keys.labels import put_label

    repository = made.open()
    for key in made.wraps_of(made.owner):
        _, purpose, name = key.split("/")
        made.delete(f"{LABEL_PREFIX}{purpose}/")
        put_label(made.storage, repository.objects, purpose, {name: Holder(bob.recipient)})
    before = dict(made.storage.objects)
    with pytest.raises(DrkitError):
        remove_recipient(made.open(), bob.recipient)
    assert made.storage.objects == before


@pytest.mark.parametrize("labelled", [True, False])
def test_a_key_that_somebody_else_wrapped_is_given_to_nobody(made: Made, bob: Identity, labelled: bool) -> None:
    """Who can write to the storage, without any key, wraps data keys of his own for the owner's public key."""
    if not labelled:
        made.delete(LABEL_PREFIX)
    forger = ObjectSealer(bytes(32), made.open().id)
    for purpose in {key.split("/")[1] for key in made.wraps_of(made.owner)} - {"meta"}:
        for _ in range(8):  # whichever comes first in a listing
            put_key(made.storage, forger, f"keys/{purpose}/", made.open().id, bytes(32), [Holder(made.owner.recipient)])
    rewrap_keys(made.open(), [made.owner.recipient, bob.recipient])
    for identity in (made.owner, bob):
        assert read_everything(made.open(identity))
        assert open_every_key(made.open(identity)).keys == 3
    assert len(made.wraps_of(made.owner)) == 3


def test_without_the_right_key_nothing_is_done(made: Made, bob: Identity) -> None:
    purpose = next(key.split("/")[1] for key in made.wraps_of(made.owner) if not key.startswith(META_PREFIX))
    made.delete(f"keys/{purpose}/")
    forger = ObjectSealer(bytes(32), made.open().id)
    put_key(made.storage, forger, f"keys/{purpose}/", made.open().id, bytes(32), [Holder(made.owner.recipient)])
    before = {key for key in made.storage.objects if key.startswith(f"keys/{purpose}/")}
    with pytest.raises(IntegrityError, match="holds another one, which somebody put there"):
        rewrap_keys(made.open(), [made.owner.recipient, bob.recipient])
    assert {key for key in made.storage.objects if key.startswith(f"keys/{purpose}/")} == before
    with pytest.raises(AccessDenied):
        made.open(bob)


def test_two_of_one_name(made: Made, bob: Identity) -> None:
    add_recipient(made.open(), bob.recipient, "safe")
    add_recipient(made.open(), generate_identity().recipient, "safe")
    with pytest.raises(UsageError, match="2 recipients are named safe"):
        remove_recipient(made.open(), "safe")


@pytest.mark.parametrize(
    ("recipient", "name"), [("age1\x1b[31m", ""), ("", ""), ("age1x", "\x1b[2J"), ("age1x", "x" * 1000), (5, 5)]
)
def test_a_hostile_label_steers_no_terminal(made: Made, recipient: str, name: str) -> None:
    payload = json.dumps({"wraps": {"0" * 64: {"recipient": recipient, "name": name}}}).encode()
    body = made.open().objects.seal("recipients", b"meta", payload)
    made.storage.put(f"{LABEL_PREFIX}meta/{hashlib.sha256(body).hexdigest()}", body)
    made.storage.put(f"{META_PREFIX}{'0' * 64}", b"")
    for holder in key_list(made.open()).holders:
        assert holder.recipient in ("age1x", made.owner.recipient)
        assert holder.name == ""


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "x" * 101])
def test_a_name_is_printable(made: Made, bob: Identity, name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        add_recipient(made.open(), bob.recipient, name)


def test_rewrap_needs_one_of_the_new_recipients(made: Made, bob: Identity) -> None:
    before = dict(made.storage.objects)
    with pytest.raises(DrkitError, match="none of the new recipients is proven"):
        rewrap_keys(made.open(), [bob.recipient])
    assert made.storage.objects == before


def test_rewrap_keeps_names_and_does_nothing_twice(made: Made, bob: Identity) -> None:
    add_recipient(made.open(), bob.recipient, "safe")
    both = [made.owner.recipient, bob.recipient]
    before = dict(made.storage.objects)
    assert (rewrap_keys(made.open(), both).made, made.storage.objects) == (0, before)
    carol = generate_identity()
    changed = rewrap_keys(made.open(), [*both, carol.recipient])
    assert (changed.made, changed.removed) == (3, 0)
    names = {holder.recipient: holder.name for holder in key_list(made.open()).holders}
    assert names == {made.owner.recipient: "", bob.recipient: "safe", carol.recipient: ""}


def test_a_write_only_host_changes_no_keys(made: Made, bob: Identity) -> None:
    before = dict(made.storage.objects)
    with pytest.raises(AccessDenied, match="needs an identity"):
        add_recipient(made.write_only(), bob.recipient)
    with pytest.raises(AccessDenied, match="needs an identity"):
        remove_recipient(made.write_only(), made.owner.recipient)
    with pytest.raises(AccessDenied, match="needs an identity"):
        rewrap_keys(made.write_only(), [bob.recipient])
    assert made.storage.objects == before
    assert len(key_list(made.write_only()).holders) == 1


def test_an_identity_that_opens_a_part_says_so(made: Made, bob: Identity) -> None:
    add_recipient(made.open(), bob.recipient)
    lost = next(key for key in made.wraps_of(bob) if not key.startswith(META_PREFIX))
    del made.storage.objects[lost]
    with pytest.raises(AccessDenied, match=r"1 of 3 keys do not open data.*does not open the data key"):
        open_every_key(made.open(bob))
    with pytest.raises(AccessDenied, match="does not open the data key"):
        add_recipient(made.open(bob), generate_identity().recipient)


# --- repositories without labels --------------------------------------------------------------------------------------


def golden_identity(name: str = "identity") -> Identity:
    return parse_identity((GOLDEN / f"{name}.txt").read_text(), source=name)


def test_wraps_of_an_earlier_version_are_counted_and_named_by_rewrap(tmp_path: Path) -> None:
    directory = tmp_path / "frozen"
    shutil.copytree(GOLDEN / "repository", directory)
    storage, ours, second = open_storage(str(directory)), golden_identity(), golden_identity("escrow-identity")
    repository = Repository.open(storage, [ours])
    found = key_list(repository)
    assert (found.keys, found.unlabelled) == (3, 3)
    assert [holder.recipient for holder in found.holders] == [ours.recipient]
    assert [wrap.holder for wrap in found.escrows] == [None]
    found_in_file = compare_recipients(repository, [ours.recipient, second.recipient], "file")
    assert (found_in_file.lost, found_in_file.added, found_in_file.unlabelled) == ([], [second.recipient], 1)
    with pytest.raises(DrkitError, match="3 wraps of an earlier version") as caught:
        remove_recipient(repository, second.recipient)
    assert "rewrap" in (caught.value.hint or "")
    rewrap_keys(repository, [ours.recipient, second.recipient])
    for identity in (ours, second):
        assert len(read_everything(Repository.open(storage, [identity]))) == 2
        assert len(IndependentReader(directory, identity.secret_text()).snapshots()) == 2
    assert key_list(repository).unlabelled == 0
    remove_recipient(repository, second.recipient)
    with pytest.raises(AccessDenied):
        Repository.open(storage, [second])
    assert check_repository(repository).ok


def test_labels_that_do_not_open_are_passed_over(made: Made, bob: Identity) -> None:
    add_recipient(made.open(), bob.recipient)
    for key in [key for key in made.storage.objects if key.startswith(LABEL_PREFIX)]:
        made.storage.objects[key] = made.storage.objects[key][:-1]
    found = key_list(made.open())
    assert found.unlabelled == 3
    assert len(check_repository(made.open()).findings) == 6
    assert read_everything(made.open(bob))


# --- escrow, host key -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_new_passphrase_replaces_the_old_one(made: Made, bob: Identity) -> None:
    opened = made.open()
    put_escrow(made.storage, opened.objects, made.owner, "old")
    theirs = put_escrow(made.storage, opened.objects, bob, "bob's")
    assert replace_escrow(opened, "new") == []
    escrows = read_custody(opened).escrows
    assert {wrap.holder.recipient for wrap in escrows if wrap.holder} == {made.owner.recipient, bob.recipient}
    assert theirs in {wrap.key for wrap in escrows}
    from drkit.repository.keys.wraps import open_escrow

    assert open_escrow(made.storage, "new").recipient == made.owner.recipient
    with pytest.raises(AccessDenied):
        open_escrow(made.storage, "old")


@pytest.mark.slow
def test_the_frozen_escrow_is_unlocked(tmp_path: Path) -> None:
    directory = tmp_path / "frozen"
    shutil.copytree(GOLDEN / "repository", directory)
    passphrase = json.loads((GOLDEN / "expected.json").read_text())["passphrase"]
    storage = open_storage(str(directory))
    assert unlocked_identity(storage, passphrase).recipient == golden_identity("escrow-identity").recipient
    with pytest.raises(AccessDenied, match="the passphrase opens no identity"):
        unlocked_identity(storage, "wrong")


def test_the_host_key_is_private_and_never_overwrites(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "etc" / "meta.key"
    write_host_key(made.open(), path)
    assert path.stat().st_mode & 0o777 == 0o600
    opened = Repository.open_write_only(made.storage, path.read_text(), source="meta.key")
    assert opened.meta.meta_key == made.open().meta.meta_key
    before = path.read_bytes()
    with pytest.raises(DrkitError, match="exists"):
        write_host_key(made.open(), path)
    assert path.read_bytes() == before


# --- proofs -----------------------------------------------------------------------------------------------------------


def proofs(repository: Repository) -> list[Proof | IntegrityError]:
    return list(read_proofs(repository))


def prove_one(repository: Repository, kind: str = "key") -> Proof:
    return add_proof(repository, kind, {"recipient": "age1x"}, now=NOW, host="h", version="1")


def test_proofs_make_a_chain(made: Made) -> None:
    first, second, third = (prove_one(made.write_only()) for _ in range(3))
    assert proofs(made.open()) == [first, second, third]
    assert [proof.number for proof in (first, second, third)] == [1, 2, 3]
    body = made.storage.objects[f"{PROOF_PREFIX}0000000001"]
    assert (first.previous, second.previous) == (None, hashlib.sha256(body).hexdigest())
    assert check_repository(made.open()).ok


def test_a_proof_that_is_taken_away_changed_or_moved_is_noticed(made: Made) -> None:
    for _ in range(4):
        prove_one(made.open())
    good = dict(made.storage.objects)
    names = [f"{PROOF_PREFIX}{number:010d}" for number in range(1, 5)]

    def wrong() -> list[str]:
        found = [each.object_name for each in proofs(made.open()) if isinstance(each, IntegrityError)]
        assert set(found) == set(check_repository(made.open()).findings)
        return found

    assert wrong() == []
    del made.storage.objects[names[1]]
    assert wrong() == [names[2]]
    made.storage.objects = dict(good)
    made.storage.objects[names[1]] = good[names[1]][:-1]
    assert wrong() == [names[1], names[2]]
    made.storage.objects = dict(good)
    made.storage.objects[names[1]] = good[names[2]]
    assert wrong() == [names[1], names[2]]
    made.storage.objects = dict(good)
    del made.storage.objects[names[0]]  # the oldest may go
    assert wrong() == []


def test_the_chain_goes_on_behind_damage(made: Made) -> None:
    prove_one(made.open())
    name = f"{PROOF_PREFIX}0000000001"
    made.storage.objects[name] = made.storage.objects[name][:-1]
    assert prove_one(made.open()).number == 2
    assert [isinstance(each, IntegrityError) for each in proofs(made.open())] == [True, False]


def test_of_two_who_prove_at_once_one_comes_second(made: Made) -> None:
    raced: list[Proof] = []

    def on_call(call: Call) -> None:
        if call.kind == "put" and not raced:
            raced.append(prove_one(made.open()))

    storage = FaultyStorage(made.storage, on_call=on_call)
    assert prove_one(Repository.open(storage, [made.owner])).number == 2
    assert len([each for each in proofs(made.open()) if isinstance(each, Proof)]) == 2


def test_a_lost_answer_is_known_for_our_own(made: Made) -> None:
    storage = FaultyStorage(made.storage)
    repository = Repository.open(storage, [made.owner])
    storage.fail(ObjectExists("a retry met what we wrote"), kind="put", prefix=PROOF_PREFIX, after=True)
    assert prove_one(repository).number == 1
    assert len(proofs(made.open())) == 1


def on_disk(made: Made, directory: Path) -> None:
    storage = open_storage(str(directory), create=True)
    for key, body in made.storage.objects.items():
        storage.put(key, body)


def test_an_identity_is_proven_and_recorded(made: Made, bob: Identity, tmp_path: Path) -> None:
    add_recipient(made.open(), bob.recipient)
    on_disk(made, tmp_path / "repository")
    hosts, brought, link = tmp_path / "identity.txt", tmp_path / "usb.txt", tmp_path / "link.txt"
    hosts.write_text(made.owner.secret_text())
    brought.write_text(f"{generate_identity().secret_text()}\n{bob.secret_text()}\n")
    link.hardlink_to(hosts)
    environ = {"DRKIT_REPOSITORY": str(tmp_path / "repository"), "DRKIT_IDENTITY_FILE": str(hosts)}

    def run(path: Path) -> tuple[str, int, int, bool]:
        with Context(now=NOW, environ=environ) as context:
            [proven] = prove(context, path).proven
        return proven.recipient, proven.keys, proven.chunks, proven.elsewhere

    assert run(brought) == (bob.recipient, 3, 2, True)
    assert run(link) == (made.owner.recipient, 3, 2, False)
    opened = Repository.open(open_storage(environ["DRKIT_REPOSITORY"]), [bob])
    found = {holder.recipient: holder for holder in key_list(opened).holders}
    assert found[bob.recipient].proven == "2025-03-09T01:02:03.000000Z"
    assert found[bob.recipient].proven_elsewhere
    assert not found[made.owner.recipient].proven_elsewhere
    brought.write_text(generate_identity().secret_text())
    with pytest.raises(AccessDenied, match="opens no key of this repository"):
        run(brought)
    assert len(proofs(opened)) == 2


def test_what_does_not_open_is_not_proven(made: Made) -> None:
    """All data of one key is changed, in a pack whose directory is whole."""
    opened = made.open()
    chunk_id = next(chunk for key, chunk in opened.index.samples().items() if key != bytes(16))
    pack = opened.index.get(chunk_id)
    assert pack is not None
    name = f"packs/{pack.pack_id.hex()[:2]}/{pack.pack_id.hex()}"
    body = bytearray(made.storage.objects[name])
    for entry in range(len(body) // 3):
        body[24 + entry] ^= 1
    made.storage.objects[name] = bytes(body)
    for _ in range(50):  # the chunk is chosen at random
        try:
            open_every_key(made.open())
        except IntegrityError as error:
            assert error.object_name == name
            break
    else:
        pytest.fail("damage was never met")
