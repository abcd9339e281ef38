"""A recipients_file against those who open a repository, whoever has written to its storage meanwhile."""

from __future__ import annotations

import os
import random

import pytest

from drkit.errors import AccessDenied
from drkit.operations.keys import add_recipient, remove_recipient
from drkit.repository.holders.recipients import Compared, compare_recipients
from drkit.repository.keys.identity import Identity, generate_identity
from drkit.repository.keys.labels import LABEL_PREFIX
from drkit.repository.keys.wraps import META_PREFIX
from drkit.repository.repository import Repository, read_config
from drkit.repository.writer import RunWriter
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import create, random_content, write_snapshot


class Held:
    """A repository that alice made and bob was given."""

    def __init__(self, rng: random.Random) -> None:
        self.storage = MemoryStorage()
        _, self.alice = create(self.storage)
        self.bob = generate_identity()
        write_snapshot(self.open(), [self.alice.recipient], "1", {"v": random_content(rng, files=2)})
        add_recipient(self.open(), self.bob.recipient, "safe")

    def open(self) -> Repository:
        return Repository.open(self.storage, [self.alice])

    def write_only(self) -> Repository:
        return Repository(self.storage, read_config(self.storage), self.open().meta.meta_key, ())

    def compare(self, *identities: Identity, remembered: tuple[str, ...] = ()) -> list[Compared]:
        """What a host with the identity finds, and one without any."""
        recipients = [identity.recipient for identity in identities]
        return [
            compare_recipients(repository, recipients, "/etc/r.txt", remembered)
            for repository in (self.open(), self.write_only())
        ]

    def delete(self, prefix: str) -> None:
        for key in [key for key in self.storage.objects if key.startswith(prefix)]:
            del self.storage.objects[key]


@pytest.fixture
def held(rng: random.Random) -> Held:
    return Held(rng)


@pytest.fixture
def stranger() -> Identity:
    return generate_identity()


def test_the_same_in_any_order(held: Held) -> None:
    for found in held.compare(held.bob, held.alice, held.bob):
        assert (found.loss, found.addition, found.gone) == (None, None, [])


def test_a_lost_holder_is_named_with_both_ways_out(held: Held) -> None:
    for found in held.compare(held.alice):
        assert found.loss is not None
        assert found.loss.exit_code == 12
        assert f"/etc/r.txt does not name {held.bob.recipient} (safe)" in found.loss.message
        assert "Put the missing line back into /etc/r.txt" in (found.loss.hint or "")
        assert f"drkit key remove {held.bob.recipient}" in (found.loss.hint or "")


def test_a_file_with_a_stranger_alone_is_refused_and_leads_nobody_to_give_it_keys(
    held: Held, stranger: Identity
) -> None:
    for found in held.compare(stranger):
        assert [holder.recipient for holder in found.lost] == sorted([held.alice.recipient, held.bob.recipient])
        assert found.loss is not None
        assert f"it names {stranger.recipient} instead" in found.loss.message
        for way in ("rewrap", "key add"):
            assert way not in (found.loss.hint or "") + found.loss.message


def test_one_more_is_accepted_and_named(held: Held, stranger: Identity) -> None:
    for found in held.compare(held.alice, held.bob, stranger):
        assert (found.loss, found.added) == (None, [stranger.recipient])
        assert stranger.recipient in (found.addition or "")


def test_a_removed_holder_is_not_lost(held: Held) -> None:
    remove_recipient(held.open(), "safe")
    for found in held.compare(held.alice):
        assert (found.loss, found.addition, found.gone) == (None, None, [])


def test_a_wrap_that_a_stranger_stored_hides_nothing(held: Held, stranger: Identity) -> None:
    """Whoever can write to the storage adds a wrap that no label names: nobody may be behind it."""
    held.storage.objects[META_PREFIX + "0" * 64] = b"age-encryption.org/v1\nfor a stranger"
    for found in held.compare(held.alice, held.bob, stranger):
        assert stranger.recipient in (found.addition or "")
        assert "1 wrap of the meta key" in (found.addition or "")
    for found in held.compare(held.alice):
        assert found.loss is not None


@pytest.mark.parametrize("what", [f"{LABEL_PREFIX}meta/", LABEL_PREFIX])
def test_labels_that_somebody_deleted_do_not_hide_a_loss_from_a_host_that_remembers(
    held: Held, stranger: Identity, what: str
) -> None:
    held.delete(what)
    remembered = (held.alice.recipient, held.bob.recipient)
    for found in held.compare(stranger, remembered=remembered):
        assert {holder.recipient for holder in found.lost} == set(remembered)
    # The identity itself opens a wrap without a label, so a host that has it remembers without memory.
    with_identity, without = held.compare(stranger)
    assert [holder.recipient for holder in with_identity.lost] == [held.alice.recipient]
    assert without.loss is None
    assert "2 wraps of the meta key have no label" in (without.addition or "")


def test_no_wrap_at_all_is_no_removal(held: Held) -> None:
    write_only = held.write_only()
    held.delete("keys/")
    found = compare_recipients(write_only, [], "/etc/r.txt", (held.alice.recipient,))
    assert [holder.recipient for holder in found.lost] == [held.alice.recipient]


def test_a_holder_whose_wrap_and_label_are_gone_is_told_of(held: Held) -> None:
    """Somebody took bob's keys from the storage, and somebody took his line: no removal, but it looks like one."""
    remove_recipient(held.open(), "safe")
    for found in held.compare(held.alice, remembered=(held.alice.recipient, held.bob.recipient)):
        assert (found.loss, found.gone) == (None, [held.bob.recipient])


# --- what a run seals -------------------------------------------------------------------------------------------------


def test_a_run_that_its_own_host_could_not_open_stores_no_chunk(held: Held, stranger: Identity) -> None:
    before = {key for key in held.storage.objects if key.startswith(("packs/", "snapshots/"))}
    with (
        pytest.raises(AccessDenied, match=f"{held.alice.recipient} does not open the data key of this run"),
        RunWriter(held.open(), "2", [stranger.recipient, held.bob.recipient], host="h") as writer,
    ):
        writer.put_data(os.urandom(1000))
    assert {key for key in held.storage.objects if key.startswith(("packs/", "snapshots/"))} == before


def test_a_run_of_a_write_only_host_cannot_be_tried(held: Held) -> None:
    with RunWriter(held.write_only(), "2", [held.bob.recipient], host="h") as writer:
        writer.put_data(os.urandom(1000))
        writer.keep()
