"""One table of sizes for readers and writers: what a writer stores a reader takes, and nothing larger."""

from __future__ import annotations

import random
import struct

import pytest

from drkit.errors import IntegrityError, RepositoryError
from drkit.repository.check import check_repository
from drkit.repository.commit.marks import MAX_IDS
from drkit.repository.format import packs as packs_module
from drkit.repository.format.compression import compress
from drkit.repository.format.layout import kind_of
from drkit.repository.format.limits import MAX_CHUNK_SIZE, PACK, PACK_ENTRIES, SEALED, sealed_limit
from drkit.repository.format.names import content_name
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.packs import (
    DATA_MAGIC,
    ENTRY,
    HEADER_SIZE,
    MAX_SEALED_CHUNK,
    TRAILER,
    Entry,
    PackBuilder,
    open_directory,
    pack_buffer,
    pack_key,
)
from drkit.repository.format.sealing import OVERHEAD, Cipher
from drkit.repository.format.snapshot import Snapshot, Target, format_time
from drkit.repository.index import MAX_ENTRIES, PackedListing, encode_packs
from drkit.repository.pack_reader import stored_packs
from drkit.repository.repository import Repository
from drkit.repository.writer import RunWriter
from drkit.storage.base import MAX_OBJECT
from drkit.storage.local import reserve
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import NOW, create, random_content, read_everything, write_snapshot

KEY = bytes(range(32))
SEALER = ObjectSealer(KEY, bytes(16))
MIB = 1 << 20


def sealed_by_force(kind: str, name: bytes, payload: bytes) -> bytes:
    """What a writer without limits, who holds the meta key, would store."""
    return bytes(Cipher(KEY).seal(compress(payload), SEALER._associated(kind, name)))


@pytest.mark.parametrize("kind", SEALED)
def test_a_writer_refuses_what_readers_refuse(kind: str) -> None:
    largest = bytes(SEALED[kind].payload)
    assert SEALER.open(kind, b"n", SEALER.seal(kind, b"n", largest), source="x") == largest
    with pytest.raises(
        RepositoryError, match=rf"kind {kind} with {len(largest) + 1} bytes .* {len(largest)}"
    ) as caught:
        SEALER.seal(kind, b"n", largest + b"x")
    assert caught.value.hint
    with pytest.raises(IntegrityError, match=f"name: .* at most {len(largest)}"):
        SEALER.open(kind, b"n", sealed_by_force(kind, b"n", largest + b"x"), source="name")


def test_the_sealed_form_is_within_its_limit(seed: int) -> None:
    """Bytes that do not compress grow the most; small payloads grow the most for their size."""
    rng = random.Random(seed)
    sizes = [*range(300), 511, 512, 127 << 10, 128 << 10, (128 << 10) + 1, MIB - 1, 3 * MIB, 9 * MIB]
    for size in sizes:
        assert len(compress(rng.randbytes(size))) + OVERHEAD <= sealed_limit(size)
    payload = rng.randbytes(SEALED["mark"].payload)
    assert len(SEALER.seal("mark", b"p", payload)) <= SEALED["mark"].stored


def test_every_object_fits_into_every_storage() -> None:
    assert PACK == MAX_OBJECT
    assert all(limit.stored <= MAX_OBJECT for limit in SEALED.values())
    assert MAX_SEALED_CHUNK <= MAX_OBJECT


def test_the_largest_chunk_fits_in_a_pack_of_its_own() -> None:
    directory = sealed_limit(ENTRY.size) + TRAILER.size
    assert HEADER_SIZE + sealed_limit(MAX_CHUNK_SIZE) + directory <= PACK


def test_the_directory_of_every_pack_of_ours_is_within_its_limit() -> None:
    assert PACK_ENTRIES * ENTRY.size <= SEALED["pack"].payload
    builder = PackBuilder(DATA_MAGIC, pack_buffer())
    for number in range(PACK_ENTRIES):
        assert not builder.full
        builder.add(struct.pack("<32xQ", number)[8:], bytes(16), b"x" * 40, 5)
    assert builder.full
    builder.finish(SEALER)
    body = bytes(builder.body)
    assert open_directory(SEALER, body[:HEADER_SIZE], body, len(body), source="pack") == builder.entries


@pytest.mark.parametrize("chunks", [0, 1, 2, 350, MAX_ENTRIES - 1, PACK_ENTRIES])
def test_every_index_object_is_within_its_limit(chunks: int) -> None:
    pack = PackedListing(bytes(32), 1000, bytes(ENTRY.size) * chunks)
    count = 3 * MAX_ENTRIES // max(chunks, 1) + 2
    payloads = list(encode_packs(pack for _ in range(count)))
    assert len(payloads) > 2
    assert max(map(len, payloads)) <= SEALED["index"].payload


def test_the_reserve_for_a_full_disk_holds_a_mark_and_an_index_object() -> None:
    index = MAX_ENTRIES * ENTRY.size
    assert SEALED["mark"].stored + index < reserve.PARTS * reserve.PART_SIZE
    assert MAX_IDS == 262_144


# --- packs ------------------------------------------------------------------------------------------------------------


def test_a_pack_is_closed_before_a_chunk_that_would_make_it_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy brings chunks that another writer has cut, of up to 64 MiB."""
    monkeypatch.setattr(packs_module, "PACK", 200_000)
    monkeypatch.setattr(packs_module, "PACK_SIZE", 150_000)
    storage = MemoryStorage()
    repository, identity = create(storage)
    sizes = [140_000, 100_000, 195_000, 10, 149_000, 60_000]
    with RunWriter(repository, "run", [identity.recipient], host="h") as writer:
        for number, size in enumerate(sizes):
            entry = Entry(bytes([number]) * 32, bytes([1]) * 16, 0, size, size)
            assert writer.put_sealed(entry, memoryview(bytes(size)))
        writer.keep()
    stored = stored_packs(storage)
    assert max(stored.values()) <= 200_000
    assert len(stored) == 5
    assert len(Repository.open(storage, [identity]).index) == len(sizes)


def test_a_single_chunk_always_has_room() -> None:
    assert PackBuilder(DATA_MAGIC, pack_buffer()).has_room(PACK)


# --- what an index and a directory say of sizes -----------------------------------------------------------------------

LIES = [
    {"size": 0},
    {"size": MAX_CHUNK_SIZE + 1},
    {"size": (1 << 32) - 1},
    {"sealed_size": MAX_SEALED_CHUNK + 1},
    {"sealed_size": (1 << 32) - 1},
]


@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_lies_about_sizes_makes_nothing_unreadable(lie: dict[str, int], rng: random.Random) -> None:
    storage = MemoryStorage()
    repository, identity = create(storage)
    content = {"v": random_content(rng)}
    write_snapshot(repository, [identity.recipient], "1", content)
    there, size = next(iter(stored_packs(storage).items()))
    entry = Entry(bytes(32), bytes(16), 24, 100, 100)._replace(**lie)
    listing = PackedListing(there, size, ENTRY.pack(*entry))
    assert not listing.is_possible()
    body = repository.objects.seal("index", b"", next(encode_packs([listing])))
    key = f"index/{content_name(body)}"
    storage.put(key, body)
    opened = Repository.open(storage, [identity])
    assert set(check_repository(opened).findings) == {key}
    assert [error.object_name for error in opened.damage] == [pack_key(there)]
    assert read_everything(opened) == {"1": content}
    write_snapshot(Repository.open(storage, [identity]), [identity.recipient], "2", content)


@pytest.mark.parametrize("lie", LIES)
def test_a_directory_that_lies_about_sizes_is_damaged(lie: dict[str, int]) -> None:
    storage = MemoryStorage()
    repository, identity = create(storage)
    builder = PackBuilder(DATA_MAGIC, pack_buffer())
    builder.add(bytes(32), bytes(16), b"sealed", 5)
    builder.entries[0] = builder.entries[0]._replace(**lie)
    key = pack_key(builder.finish(repository.objects))
    storage.put(key, builder.body)
    assert set(check_repository(Repository.open(storage, [identity])).findings) == {key}


def test_a_directory_that_claims_half_of_the_pack_is_not_read() -> None:
    """The length in the trailer is not authenticated, and says how much is read."""
    size = 60 * MIB
    tail = TRAILER.pack(size - 100, b"DRKITEND")
    with pytest.raises(IntegrityError, match="is not a pack"):
        open_directory(SEALER, DATA_MAGIC + bytes(16), tail, size, source="packs/x")
    with pytest.raises(IntegrityError, match=rf"packs/x has {PACK + 1} bytes"):
        open_directory(SEALER, DATA_MAGIC + bytes(16), tail, PACK + 1, source="packs/x")


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_record_that_no_reader_takes_is_not_committed(rng: random.Random) -> None:
    storage = MemoryStorage()
    repository, identity = create(storage)
    content = {"v": random_content(rng)}
    write_snapshot(repository, [identity.recipient], "1", content)
    target = Target("volume", "w", source={"x": "x" * (SEALED["snapshot"].payload + 1)})
    snapshot = Snapshot("2", format_time(NOW), "host", "policy", "ok", [target])
    with (
        pytest.raises(RepositoryError, match=r"kind snapshot .* was not stored") as caught,
        RunWriter(repository, "2", [identity.recipient], host="host") as writer,
    ):
        writer.commit(snapshot)
    assert "policy" in (caught.value.hint or "")
    assert [info.key for info in storage.list("snapshots/")] == ["snapshots/1"]
    assert list(storage.list("sessions/")) == []
    write_snapshot(Repository.open(storage, [identity]), [identity.recipient], "3", content)
    assert read_everything(Repository.open(storage, [identity])) == {"1": content, "3": content}


# --- names ------------------------------------------------------------------------------------------------------------

HASH, KEY_ID = "0123456789abcdef" * 4, "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("config", "config"),
        (f"keys/meta/{HASH}", "wrap"),
        (f"keys/{KEY_ID}/{HASH}", "wrap"),
        (f"keys/escrow/{HASH}", "escrow"),
        (f"keys/recipients/meta/{HASH}", "recipients"),
        (f"keys/recipients/escrow/{HASH}", "recipients"),
        (f"keys/recipients/{KEY_ID}/{HASH}", "recipients"),
        (f"packs/01/{HASH}", "pack"),
        (f"index/{HASH}", "index"),
        ("snapshots/20250309t010203z-0a1b2c3d", "snapshot"),
        ("sessions/20250309t010203z-0a1b2c3d/0", "session"),
        ("marks/20250309t010203z-0a1b2c3d", "mark"),
        ("proofs/0000000001", "proof"),
        ("proofs/9999999999", "proof"),
        ("program/drkit-1.0.tar", "program"),
        *((name, None) for name in ("packs", "keys", "keys/meta", "index", "index/zz", "proofs/abc", "program")),
        *((f"{name}/x/y/z", None) for name in ("packs", "keys", "index", "snapshots", "sessions", "marks", "proofs")),
        (f"packs/02/{HASH}", None),
        (f"keys/recipients/{HASH}", None),
        (f"keys/recipients/other/{HASH}", None),
        ("proofs/0000000000", None),
        ("proofs/00000000001", None),
        ("sessions/x", None),
        ("sessions/x/y", None),
        ("probe/x", None),
    ],
)
def test_names_tell_kinds(key: str, kind: str | None) -> None:
    assert kind_of(key) == kind
