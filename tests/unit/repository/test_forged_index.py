"""Whoever holds the meta key can store an index object that lies. It makes nothing unreadable, and nothing is lost."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from drkit.errors import AccessDenied, DrkitError, IntegrityError
from drkit.repository.check import check_packs, check_repository
from drkit.repository.format import packs as packs_module
from drkit.repository.format.packs import (
    DATA_MAGIC,
    ENTRY,
    TREE_MAGIC,
    Entry,
    PackBuilder,
    pack_buffer,
    pack_key,
)
from drkit.repository.format.tree import Member, encode_member
from drkit.repository.holders.every_key import open_every_key
from drkit.repository.index import PackedListing, PackListing, index_keys, put_index
from drkit.repository.keys.wraps import TREE_KEY_ID, data_key_wraps, format_meta_key
from drkit.repository.prune.plan import plan_prune
from drkit.repository.repair import repair_index
from drkit.repository.repository import Repository
from drkit.storage.base import MAX_OBJECT
from tests.support.faulty_storage import Call, FaultyStorage
from tests.support.forged_index import HARMLESS, LIES, forge, forge_payload, tell, true_listings
from tests.support.independent_reader import IndependentReader
from tests.support.memory_storage import MemoryStorage
from tests.support.mirroring import by_original, copy_all, make_mirror
from tests.support.pruning import ALL, debris, prune_now
from tests.support.repositories import Content, create, random_content, read_everything, write_snapshot


class Made:
    """`kept` shares a little with `old`, and `new` nothing: a prune of `old` drops packs, and moves chunks."""

    def __init__(self, rng: random.Random) -> None:
        self.storage = MemoryStorage()
        self.rng = rng
        _, self.identity = create(self.storage)
        shared = {b"!1": rng.randbytes(3000)}
        self.contents: dict[str, Content] = {
            "20250301t000000z-00000001": {**shared, b"!2": rng.randbytes(250_000), **random_content(rng, 5)},
            "20250302t000000z-00000002": {**shared, b"own": rng.randbytes(150_000)},
            "20250303t000000z-00000003": {**random_content(rng, 4), b"own": rng.randbytes(150_000)},
        }
        for content in self.contents.values():
            content |= {path: data + bytes(-len(data) % 512) for path, data in content.items()}
        self.old, self.kept, self.new = self.contents
        for run in self.contents:
            write_snapshot(self.open(), [self.identity.recipient], run, {"v": self.contents[run]})

    def open(self) -> Repository:
        return Repository.open(self.storage, [self.identity])

    def open_write_only(self) -> Repository:
        whole = self.open()
        return Repository.open_write_only(self.storage, format_meta_key(whole.meta.meta_key, whole.id), source="m")

    def right(self, *runs: str) -> bool:
        return read_everything(self.open()) == {run: {"v": self.contents[run]} for run in runs}


@pytest.fixture
def made(rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setattr(packs_module, "PACK_SIZE", 100_000)
    return Made(rng)


WAYS = {"beside, first": (False, True), "beside, last": (False, False), "instead": (True, True)}

every_lie = pytest.mark.parametrize("lie", LIES)
every_way = pytest.mark.parametrize("way", WAYS)


def told(made: Made, lie: str, way: str) -> str:
    instead, first = WAYS[way]
    return tell(made.open(), lie, made.rng, instead=instead, first=first)


# --- reading, checking, healing ---------------------------------------------------------------------------------------


@every_way
@every_lie
def test_everything_is_read_and_checked_and_healed(made: Made, lie: str, way: str) -> None:
    forged = told(made, lie, way)
    harmless = lie in HARMLESS and way != "instead"
    opened = made.open()
    assert read_everything(opened) == {run: {"v": content} for run, content in made.contents.items()}
    assert opened.damage or harmless
    for report in (check_repository(made.open()), check_packs(made.open())):
        assert report.ok == harmless
        if not harmless:
            assert lie in HARMLESS or forged in report.findings
            assert not [name for name in report.findings if name.startswith("packs/")] or lie in HARMLESS
            assert report.error is not None
            assert report.error.exit_code == 20
            assert "drkit repair index" in str(report.error.hint)
    done = repair_index(made.open())
    assert done.damaged == []
    assert done.denied == []
    assert lie in HARMLESS or done.deleted == [forged]
    objects = dict(made.storage.objects)
    again = repair_index(made.open())
    assert (again.packs, again.lying, again.deleted) == (0, [], [])
    assert made.storage.objects == objects
    healed = made.open()
    assert read_everything(healed) == {run: {"v": content} for run, content in made.contents.items()}
    assert healed.damage == []
    assert check_repository(made.open()).ok


@every_way
@every_lie
def test_keys_are_proven_by_what_packs_say(made: Made, lie: str, way: str) -> None:
    told(made, lie, way)
    opened = open_every_key(made.open())
    assert opened.keys == 4
    assert opened.chunks <= 3  # a key whose chunks the index hides is opened, and counts without a chunk
    repair_index(made.open())
    assert open_every_key(made.open()) == (4, 3)


@every_lie
def test_a_key_of_an_earlier_version_is_told_by_a_chunk_that_the_pack_names(made: Made, lie: str) -> None:
    """There a chunk decides which key is right, and the index must not choose a wrong one."""
    keys = {key_id: made.open().keys.get(key_id) for key_id in made.open().index.key_ids() if any(key_id)}
    told(made, lie, "instead")
    for key_id, key in keys.items():
        opened = made.open()
        assert opened.opens_chunk(key_id, key) in (True, None)
        assert opened.opens_chunk(key_id, bytes(32)) in (False, None)


def test_a_count_beyond_the_object_is_damage_and_goes_when_the_packs_are_listed(made: Made) -> None:
    [first, *_] = true_listings(made.open())
    payload = struct.pack("<32sII", first.pack_id, first.size, (1 << 32) - 1) + first.entries
    forged = forge_payload(made.open(), payload)
    assert read_everything(made.open()) == {run: {"v": content} for run, content in made.contents.items()}
    assert forged in check_repository(made.open()).findings
    assert repair_index(made.open()).deleted == [forged]
    assert check_repository(made.open()).ok


def test_an_unreadable_index_object_stays_while_a_pack_is_damaged(made: Made) -> None:
    """It may be all that tells what lies there, once it is restored."""
    keys = index_keys(made.storage)
    made.storage.objects[keys[0]] = b"damage"
    pack = next(key for key in made.storage.objects if key.startswith("packs/"))
    made.storage.objects[pack] = made.storage.objects[pack][:-1] + b"?"
    done = repair_index(made.open())
    assert {error.object_name for error in done.damaged} == {keys[0], pack}
    assert done.deleted == []
    assert keys[0] in made.storage.objects


def test_a_lie_that_the_storage_keeps_is_told_and_not_outlisted_again(made: Made) -> None:
    """Under object lock it stays: readers go by the packs, and no repair piles up index objects beside it."""
    forged = told(made, "shifted offsets", "instead")
    storage = FaultyStorage(made.storage)
    storage.fail(AccessDenied("retention lock"), kind="delete", prefix="index/", times=2)
    done = repair_index(Repository.open(storage, [made.identity]))
    assert (done.deleted, done.denied) == ([], [forged])
    assert done.packs > 0
    objects = dict(made.storage.objects)
    again = repair_index(Repository.open(storage, [made.identity]))
    assert (again.packs, again.denied) == (0, [forged])
    assert made.storage.objects == objects
    assert made.right(*made.contents)
    refused(made, lambda: prune_now(made.open(), "p", made.old))
    assert repair_index(made.open()).deleted == [forged]
    prune_now(made.open(), "p", made.old)
    assert made.right(made.kept, made.new)


def test_a_reader_that_began_before_a_repair_goes_on(made: Made) -> None:
    told(made, "shifted offsets", "instead")
    storage = FaultyStorage(made.storage)
    opened = Repository.open(storage, [made.identity])
    once = iter([True])

    def on_call(call: Call) -> None:
        if call.kind == "get" and call.key.startswith("index/") and next(once, False):
            repair_index(made.open())

    storage.on_call = on_call
    assert read_everything(opened) == {run: {"v": content} for run, content in made.contents.items()}


def test_what_is_listed_of_a_damaged_pack_outlives_the_lie_beside_it(made: Made) -> None:
    listings = true_listings(made.open())
    for key in index_keys(made.storage):
        made.storage.delete(key)
    forge(made.open(), [listings[0], *(pack._replace(entries=b"") for pack in listings[1:])])
    body = made.storage.objects[pack_key(listings[0].pack_id)]
    made.storage.objects[pack_key(listings[0].pack_id)] = body[:-1] + b"?"
    repair_index(made.open())
    assert sorted(true_listings(made.open())) == sorted(listings)
    assert made.right(*made.contents)


def test_another_pack_in_the_place_of_one_makes_no_index_object_a_liar(made: Made) -> None:
    """A directory is bound to the salt of its pack, not to its name: so the bytes are held against the name."""
    listings = true_listings(made.open())
    one, two = (pack_key(pack.pack_id) for pack in listings[:2])
    made.storage.objects[one] = made.storage.objects[two]
    before = index_keys(made.storage)
    assert list(check_repository(made.open()).findings) == [one]
    done = repair_index(made.open())
    assert ([error.object_name for error in done.damaged], done.lying, done.deleted) == ([one], [], [])
    assert index_keys(made.storage) == before


def test_a_true_index_costs_no_directory(made: Made) -> None:
    """The first reading of everything asks for chunks, and for nothing else in packs."""
    asked: list[tuple[str, int]] = []

    class Recording(MemoryStorage):
        def get(self, key: str, offset: int = 0, length: int | None = None, *, limit: int = MAX_OBJECT) -> bytes:
            asked.append((key, offset))
            return super().get(key, offset, length, limit=limit)

    storage = Recording()
    storage.objects = made.storage.objects
    opened = Repository.open(storage, [made.identity])
    read_everything(opened)
    chunks = {(pack_key(pack.pack_id), e.offset) for pack in true_listings(opened) for e in pack.listing().entries}
    in_packs = {place for place in asked if place[0].startswith("packs/")}
    assert in_packs
    assert in_packs <= chunks


def test_all_directories_are_read_once_however_many_chunks_are_lost(made: Made) -> None:
    tell(made.open(), "a pack has all", made.rng, instead=True, first=True)
    storage = FaultyStorage(made.storage)
    opened = Repository.open(storage, [made.identity])
    chunks = sum(len(pack.entries) // ENTRY.size for pack in true_listings(opened))
    packs = sum(key.startswith("packs/") for key in made.storage.objects)
    assert made.right(*made.contents)
    read_everything(opened)
    gets = [call for call in storage.calls if call.kind == "get" and call.key.startswith("packs/")]
    print(f"{packs} packs, {chunks} chunks in the lie: {len(gets)} requests")
    assert len(gets) < 3 * chunks + 6 * packs


# --- writing ----------------------------------------------------------------------------------------------------------


@every_way
@every_lie
def test_a_backup_after_it_is_whole(made: Made, lie: str, way: str) -> None:
    told(made, lie, way)
    content = {**made.contents[made.old], **random_content(made.rng, 3)}
    write_snapshot(made.open(), [made.identity.recipient], "20250304t000000z-00000004", {"v": content})
    made.contents["20250304t000000z-00000004"] = content
    assert made.right(*made.contents)
    repair_index(made.open())
    assert check_repository(made.open()).ok
    prune_now(made.open(), "p", made.old)
    assert made.right(*list(made.contents)[1:])


@every_way
@every_lie
def test_a_copy_is_whole(made: Made, lie: str, way: str) -> None:
    mirror = MemoryStorage()
    make_mirror(made.open(), mirror)
    told(made, lie, way)
    done = copy_all(made.open_write_only(), mirror)
    assert done.failed == []
    assert by_original(mirror, made.identity) == {run: {"v": content} for run, content in made.contents.items()}
    assert check_repository(Repository.open(mirror, [made.identity])).ok


@every_way
@every_lie
def test_a_copy_into_a_mirror_whose_index_lies_is_whole(made: Made, lie: str, way: str) -> None:
    mirror = MemoryStorage()
    held = make_mirror(made.open(), mirror)
    copy_all(made.open(), mirror, made.old)
    instead, first = WAYS[way]
    tell(held, lie, made.rng, instead=instead, first=first)
    assert copy_all(made.open(), mirror).failed == []
    assert by_original(mirror, made.identity) == {run: {"v": content} for run, content in made.contents.items()}


# --- pruning ----------------------------------------------------------------------------------------------------------


def refused(made: Made, action: Callable[[], object]) -> None:
    objects = dict(made.storage.objects)
    with pytest.raises(IntegrityError) as caught:
        action()
    assert caught.value.exit_code == 20
    assert "drkit repair index" in str(caught.value.hint)
    assert made.storage.objects == objects


@every_way
@every_lie
def test_a_prune_stops_until_the_index_is_repaired(made: Made, lie: str, way: str) -> None:
    told(made, lie, way)
    if lie in HARMLESS and way != "instead":
        prune_now(made.open(), "p", made.old)
    else:
        refused(made, lambda: plan_prune(made.open(), lambda snapshots: {made.old}, ALL.max_repack))
        refused(made, lambda: prune_now(made.open(), "p", made.old))
        refused(made, lambda: prune_now(made.open_write_only(), "p", made.old))
        repair_index(made.open())
        assert prune_now(made.open(), "p", made.old).forgotten == [made.old]
    assert made.right(made.kept, made.new)
    prune_now(made.open(), "q")
    assert debris(made.open()) == []
    assert check_repository(made.open()).ok


def test_random_lies_about_some_packs_lose_nothing(made: Made, rng: random.Random) -> None:
    """Lies of several sorts, each about some packs, instead of the truth about them or beside it."""
    objects = dict(made.storage.objects)
    counts = {"pruned": 0, "stopped": 0}
    for _ in range(60):
        made.storage.objects = dict(objects)
        packs = true_listings(made.open())
        some = rng.sample(packs, rng.choice([1, 1, 1, len(packs)]))
        lies = [pack for name in rng.sample(sorted(LIES), rng.choice([1, 1, 2])) for pack in LIES[name](some, rng)]
        if rng.random() < 0.6:
            lies += [pack for pack in packs if pack not in some]
            for key in index_keys(made.storage):
                made.storage.delete(key)
        forge(made.open(), lies, first=rng.random() < 0.5)
        assert made.right(*made.contents)
        try:
            prune_now(made.open(), "p", made.old)
            counts["pruned"] += 1
            assert made.right(made.kept, made.new)
        except DrkitError:
            counts["stopped"] += 1
            assert made.right(made.kept, made.new) or made.right(*made.contents)
        repair_index(made.open())
        assert check_repository(made.open()).ok
        prune_now(made.open(), "q", made.old)
        assert made.right(made.kept, made.new)
        prune_now(made.open(), "r")
        assert debris(made.open()) == []
    print(counts)
    assert counts["stopped"] > 0


# --- packs that claim what they do not hold ---------------------------------------------------------------------------


def store_pack(made: Made, chunks: list[tuple[Entry, bytes]], *, before: bytes | None = None) -> bytes:
    """Store a pack of these entries and sealed bytes, and list it; its id sorts `before` another one."""
    repository = made.open()
    while True:
        builder = PackBuilder(DATA_MAGIC if any(chunks[0][0].key_id) else TREE_MAGIC, pack_buffer())
        for entry, sealed in chunks:
            builder.add(entry.chunk_id, entry.key_id, sealed, entry.size)
        pack_id = builder.finish(repository.objects)
        if before is None or pack_id < before:
            made.storage.put(pack_key(pack_id), builder.body)
            put_index(made.storage, repository.objects, [PackListing(pack_id, builder.size, builder.entries).packed()])
            return pack_id


def sealed_chunks(made: Made, pack: PackedListing) -> list[tuple[Entry, bytes]]:
    body = made.storage.objects[pack_key(pack.pack_id)]
    return [(entry, body[entry.offset : entry.offset + entry.sealed_size]) for entry in pack.listing().entries]


def other_contents(made: Made, pack: PackedListing) -> list[tuple[Entry, bytes]]:
    """Chunks under the names of those in a pack, but with another content: whoever holds a data key can seal them."""
    chunks = made.open().chunks
    return [
        (entry, bytes(chunks.seal(entry.chunk_id, made.rng.randbytes(entry.size), entry.key_id)))
        for entry in pack.listing().entries
    ]


def garbage(made: Made, pack: PackedListing) -> list[tuple[Entry, bytes]]:
    """What whoever holds the meta key alone can do to data; in trees it is seen by anybody."""
    return [(entry, made.rng.randbytes(entry.sealed_size)) for entry in pack.listing().entries]


def under_another_key(made: Made, pack: PackedListing) -> list[tuple[Entry, bytes]]:
    """The same bytes, but said to be sealed with the key of another run."""
    keys = sorted({wrap.key_id for wrap in data_key_wraps(made.storage)} | {TREE_KEY_ID})
    other = {key: keys[number - 1] for number, key in enumerate(keys)}
    return [(entry._replace(key_id=other[entry.key_id]), sealed) for entry, sealed in sealed_chunks(made, pack)]


def no_tree(made: Made, pack: PackedListing, *, hidden: bool = False) -> list[tuple[Entry, bytes]]:
    """Chunks of trees that need nothing, which would tell a prune that all data may go."""
    chunks = made.open().chunks
    empty = encode_member(Member(b"", b"d 755 0 0 5 1.5 1.5 7 1", b"", b"", bytes(32), True, b""))
    key_id = data_key_wraps(made.storage)[0].key_id if hidden else TREE_KEY_ID
    return [
        (entry._replace(key_id=key_id, size=len(empty)), bytes(chunks.seal(entry.chunk_id, empty, key_id)))
        for entry in pack.listing().entries
    ]


def no_tree_under_a_data_key(made: Made, pack: PackedListing) -> list[tuple[Entry, bytes]]:
    return no_tree(made, pack, hidden=True)


FALSE_PACKS = {
    "no tree": no_tree,
    "no tree under a data key": no_tree_under_a_data_key,
    "garbage": garbage,
    "other contents": other_contents,
    "another key": under_another_key,
}
every_false_pack = pytest.mark.parametrize("how", FALSE_PACKS)


@every_false_pack
def test_packs_that_claim_all_displace_nothing(made: Made, how: str) -> None:
    """They sort before the right ones, so they would be the homes of all chunks."""
    for pack in true_listings(made.open()):
        store_pack(made, FALSE_PACKS[how](made, pack), before=pack.pack_id)
    assert made.right(*made.contents)
    mirror = MemoryStorage()
    make_mirror(made.open(), mirror)
    assert copy_all(made.open(), mirror).failed == []
    assert by_original(mirror, made.identity) == {run: {"v": content} for run, content in made.contents.items()}
    for opened in (made.open_write_only, made.open):
        done = prune_now(opened(), f"p-{opened.__name__}", made.old)
        assert done.spared
        assert made.right(made.kept, made.new)
        # With the false packs gone the right ones hold all: what was spared was needed.
    prune_now(made.open(), "q")
    assert made.right(made.kept, made.new)


@pytest.mark.parametrize("write_only", [False, True])
def test_a_true_copy_lets_the_other_one_go(made: Made, write_only: bool) -> None:
    """As a prune leaves it that was cut short before it deleted: the same sealed chunks in two packs."""
    packs = true_listings(made.open())
    for pack in packs:
        store_pack(made, sealed_chunks(made, pack))
    repository = made.open_write_only() if write_only else made.open()
    done = prune_now(repository, "p", made.old)
    assert done.spared == []
    assert done.packs_deleted >= len(packs)
    assert made.right(made.kept, made.new)


@pytest.mark.parametrize("write_only", [False, True])
def test_a_copy_under_another_key_goes_if_an_identity_shows_that_it_opens(made: Made, write_only: bool) -> None:
    """As two runs leave it that stored the same at once."""
    pack = next(pack for pack in true_listings(made.open()) if any(pack.listing().entries[0].key_id))
    opened = made.open()
    key_id = next(key for key in opened.index.key_ids() if any(key) and key != pack.listing().entries[0].key_id)
    again = [
        (entry._replace(key_id=key_id), bytes(opened.chunks.seal(entry.chunk_id, data, key_id)))
        for entry, sealed in sealed_chunks(made, pack)
        for data in [opened.chunks.open(entry.chunk_id, sealed, entry.key_id, entry.size)]
    ]
    store_pack(made, again, before=pack.pack_id)
    done = prune_now(made.open_write_only() if write_only else made.open(), "p")
    assert (done.packs_deleted, done.spared) == ((0, [pack.pack_id]) if write_only else (1, []))
    assert made.right(*made.contents)


@every_false_pack
def test_an_unlisted_pack_with_the_only_good_copy_stays(made: Made, how: str) -> None:
    """Its index object is gone, and a false pack is listed that claims its chunks: so the good one looks superfluous.

    Where the false one opens, readers of data see only that members are wrong, until the index is repaired.
    """
    packs = true_listings(made.open())
    for key in index_keys(made.storage):
        made.storage.delete(key)
    for pack in packs:
        store_pack(made, FALSE_PACKS[how](made, pack), before=pack.pack_id)
    try:
        assert prune_now(made.open(), "p", made.old).spared
    except IntegrityError as error:
        assert "drkit repair index" in str(error.hint)
    repair_index(made.open())
    assert made.right(*[run for run in made.contents if f"snapshots/{run}" in made.storage.objects])
    prune_now(made.open(), "q", made.old)
    assert made.right(made.kept, made.new)


def test_directories_are_read_of_what_goes_and_of_its_homes_alone(made: Made) -> None:
    storage = FaultyStorage(made.storage)
    opened = Repository.open(storage, [made.identity])
    plan = plan_prune(opened, lambda snapshots: {made.old}, ALL.max_repack)
    going = {pack_key(pack_id) for pack_id in plan.packs}
    trees = {key for key, body in made.storage.objects.items() if body.startswith(TREE_MAGIC)}
    read = {call.key for call in storage.calls if call.kind == "get" and call.key.startswith("packs/")}
    assert going <= read <= going | trees
    assert len(read) < sum(key.startswith("packs/") for key in made.storage.objects)


@every_lie
def test_the_format_says_how_to_read_it(made: Made, lie: str, tmp_path: Path) -> None:
    """A reader that was written from FORMAT.md alone finds everything too."""
    forged = told(made, lie, "instead")
    for key, body in made.storage.objects.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(body)
    reader = IndependentReader(tmp_path, made.identity.secret_text())
    assert {f"index/{name}" for name in reader.lying} == {forged}
    for run, record in reader.snapshots().items():
        entries = reader.entries(record["targets"][0]["tree"])
        assert {entry.path: entry.raw for entry in entries} == made.contents[run]


def test_a_damaged_directory_beside_a_true_index_changes_nothing(made: Made) -> None:
    """What such a pack holds is told by the index alone, as ever."""
    pack = next(pack for pack in true_listings(made.open()) if any(pack.listing().entries[0].key_id))
    key = pack_key(pack.pack_id)
    body = made.storage.objects[key]
    made.storage.objects[key] = body[:-30] + bytes([body[-30] ^ 1]) + body[-29:]
    assert made.right(*made.contents)
    assert list(check_repository(made.open()).findings) == [key]
    before = index_keys(made.storage)
    assert repair_index(made.open()).packs == 0
    assert index_keys(made.storage) == before
    prune_now(made.open(), "p", made.old)
    assert made.right(made.kept, made.new)


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_a_damaged_directory_beside_a_lie_hides_nothing_and_stops_no_prune_for_ever(made: Made, first: bool) -> None:
    """The genuine listing is still there: it counts wherever the lie sorts, and no repair takes the lie over."""
    repository = made.open()
    truth = next(pack for pack in true_listings(repository) if pack.listing().entries[0].key_id != TREE_KEY_ID)
    shifted = [entry._replace(offset=entry.offset + 1) for entry in truth.listing().entries]
    forge(repository, [PackListing(truth.pack_id, truth.size, shifted).packed()], first=first)
    key = pack_key(truth.pack_id)
    body = bytearray(made.storage.objects[key])
    body[-40] ^= 1  # in the directory
    made.storage.objects[key] = bytes(body)
    assert made.right(*made.contents)
    repair_index(made.open())
    assert made.right(*made.contents)
    with pytest.raises(IntegrityError) as caught:
        plan_prune(made.open(), lambda snapshots: {made.old}, ALL.max_repack)
    assert "move the pack away" in str(caught.value.hint)
