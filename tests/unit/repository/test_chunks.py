"""From bytes to packs and back: cutting, naming, sealing, packing, and the index over it."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard

from drkit.errors import AccessDenied, IntegrityError, ObjectNotFound
from drkit.repository import pack_reader
from drkit.repository.chunks import ChunkSealer
from drkit.repository.format.chunker import DATA_CHUNKS, TREE_CHUNKS, ChunkerParameters, cut_lengths
from drkit.repository.format.compression import Compression, compress, decompress
from drkit.repository.format.digest import keyed_digest, keyed_hasher
from drkit.repository.format.limits import MAX_CHUNK_SIZE
from drkit.repository.format.names import check_content_name
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.packs import (
    DATA_MAGIC,
    ENTRY,
    HEADER_SIZE,
    TRAILER,
    Entry,
    PackBuilder,
    decode_entries,
    pack_buffer,
    pack_id_of,
    pack_key,
)
from drkit.repository.index import (
    INDEX_PREFIX,
    MAX_ENTRIES,
    Index,
    PackListing,
    decode_packs,
    encode_packs,
    get_index,
    put_index,
)
from drkit.repository.index_loading import index_for_reading, index_for_writing
from drkit.repository.keys.wraps import TREE_KEY_ID, KeyRing, MetaKeys, data_key_prefix
from drkit.repository.pack_reader import read_directories, read_directory
from tests.support.memory_storage import MemoryStorage

REPOSITORY = bytes(range(16))
META = MetaKeys.derive(bytes(32), REPOSITORY)
KEY_ID = b"k" * 16
WRAP = f"{data_key_prefix(KEY_ID)}{'00' * 32}"
MIB = 1 << 20


@pytest.fixture
def storage() -> MemoryStorage:
    """With a wrap of the data key, which nobody opens here: that it is there is what counts."""
    storage = MemoryStorage()
    storage.put(WRAP, b"")
    return storage


@pytest.fixture
def objects() -> ObjectSealer:
    return ObjectSealer(META.objects, REPOSITORY)


@pytest.fixture
def chunks(storage: MemoryStorage) -> ChunkSealer:
    ring = KeyRing(storage, REPOSITORY, META, [])
    ring.add(KEY_ID, b"d" * 32)
    return ChunkSealer(META, ring, REPOSITORY)


# --- digests and compression ------------------------------------------------------------------------------------------


def test_digests_are_keyed_blake3() -> None:
    # The first keyed test vectors of the BLAKE3 specification.
    key = b"whats the Elvish word for friend"
    assert keyed_digest(key, b"").hex() == "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"
    assert keyed_digest(key, b"\0").hex() == "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b"
    hasher = keyed_hasher(key)
    hasher.update(b"a")
    hasher.update(memoryview(b"b"))
    assert hasher.digest() == keyed_digest(key, bytearray(b"ab"))


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("data", [b"", b"a", bytes(MIB), random.Random(0).randbytes(MIB)])
def test_what_is_compressed_comes_back(data: bytes, compression: Compression) -> None:
    assert decompress(compress(data, compression), limit=len(data)) == data


def test_harder_compression_makes_less_of_it(rng: random.Random) -> None:
    words = [rng.randbytes(rng.randrange(2, 9)) for _ in range(3000)]
    text = b" ".join(rng.choices(words, k=200_000))
    fast, default, best = (len(compress(text, each)) for each in Compression)
    assert fast > default > best


def test_damaged_frames() -> None:
    frame = compress(b"some text " * 1000)
    for damaged in (b"", b"no frame", frame[:-1], frame[:3], b"\0" + frame[1:]):
        with pytest.raises(IntegrityError, match="compressed data"):
            decompress(damaged, limit=10_000)


def test_a_frame_never_grows_beyond_its_limit() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(100 * MIB))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100 * MIB))
    # Says that it is small, and is not: the size field of this frame is a u32 behind magic, descriptor and window.
    lying = bytearray(bomb)
    assert lying[6:10] == (100 * MIB).to_bytes(4, "little")
    lying[6:10] = (1000).to_bytes(4, "little")
    tracemalloc.start()
    for frame in (bomb, unsized, bytes(lying)):
        with pytest.raises(IntegrityError):
            decompress(frame, limit=MIB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * MIB


# --- cutting ----------------------------------------------------------------------------------------------------------


def cut_whole(data: bytes, parameters: ChunkerParameters) -> list[int]:
    return list(cut_lengths(memoryview(data), parameters, final=True))


@pytest.mark.parametrize("parameters", [DATA_CHUNKS, TREE_CHUNKS])
def test_cuts(parameters: ChunkerParameters, rng: random.Random) -> None:
    data = rng.randbytes(20 * parameters.average)
    lengths = cut_whole(data, parameters)
    assert sum(lengths) == len(data)
    assert all(parameters.minimum <= length <= parameters.maximum for length in lengths[:-1])
    assert parameters.average / 2 < len(data) / len(lengths) < parameters.average * 2
    assert cut_whole(b"", parameters) == []
    assert cut_whole(b"x", parameters) == [1]
    assert set(cut_whole(bytes(10 * parameters.maximum), parameters)) == {parameters.maximum}


def test_cuts_do_not_depend_on_the_pieces(rng: random.Random) -> None:
    parameters = ChunkerParameters(1024, 4096, 16_384)
    data = rng.randbytes(1 << 20) + bytes(100_000) + rng.randbytes(1 << 19)
    whole = cut_whole(data, parameters)
    for _ in range(10):
        lengths, start, end = [], 0, 0
        while end < len(data):
            end = min(len(data), end + rng.randrange(1, 200_000))
            for length in cut_lengths(memoryview(data)[start:end], parameters, final=end == len(data)):
                lengths.append(length)
                start += length
        assert lengths == whole


def test_cuts_follow_the_content(rng: random.Random) -> None:
    """A byte more in front moves few cuts: that is what deduplicates."""
    data = rng.randbytes(4 * MIB)
    parameters = ChunkerParameters(4096, 16_384, 65_536)

    def names(content: bytes) -> set[bytes]:
        start, found = 0, set()
        for length in cut_whole(content, parameters):
            found.add(hashlib.sha256(content[start : start + length]).digest())
            start += length
        return found

    one, two = names(data), names(b"x" + data)
    assert len(one & two) > 0.9 * len(one)


def test_the_cuts_of_format_1_never_move() -> None:
    """Where they moved, every repository would store everything once more."""
    data = hashlib.shake_256(b"drkit").digest(8 * MIB)
    assert cut_whole(data, DATA_CHUNKS) == DATA_CUTS
    assert cut_whole(data[: 2 * MIB], TREE_CHUNKS) == TREE_CUTS


DATA_CUTS = [1_592_743, 1_206_983, 1_178_187, 1_116_210, 1_148_017, 651_698, 1_112_140, 382_630]
TREE_CUTS = [401_560, 341_348, 70_325, 356_664, 422_846, 254_819, 249_590]


# --- chunks -----------------------------------------------------------------------------------------------------------


def test_chunks_come_back(chunks: ChunkSealer, rng: random.Random) -> None:
    for data in (b"x", bytes(MIB), rng.randbytes(4 * MIB)):
        for key_id in (KEY_ID, TREE_KEY_ID):
            name = chunks.chunk_id(data, tree=key_id == TREE_KEY_ID)
            sealed = chunks.seal(name, data, key_id)
            assert chunks.open(name, sealed, key_id, len(data)) == data


def test_tree_and_data_chunks_have_different_names(chunks: ChunkSealer) -> None:
    assert chunks.chunk_id(b"same", tree=False) == keyed_digest(META.chunk_id, b"same")
    assert chunks.chunk_id(b"same", tree=True) == keyed_digest(META.tree_id, b"same")


def test_a_chunk_opens_only_under_its_name_and_key(chunks: ChunkSealer) -> None:
    name = chunks.chunk_id(b"data", tree=False)
    sealed = bytes(chunks.seal(name, b"data", KEY_ID))
    for other_name, key_id in [(bytes(32), KEY_ID), (name, TREE_KEY_ID)]:
        with pytest.raises(IntegrityError, match="does not authenticate"):
            chunks.open(other_name, sealed, key_id, 4)
    for size in (3, 5, 0, -1, MAX_CHUNK_SIZE + 1):
        with pytest.raises(IntegrityError):
            chunks.open(name, sealed, KEY_ID, size)
    with pytest.raises(AccessDenied, match="the meta key alone"):
        chunks.open(name, sealed, b"unknown key id..", 4)


# --- packs ------------------------------------------------------------------------------------------------------------


def pack_of(chunks: ChunkSealer, objects: ObjectSealer, contents: list[bytes]) -> tuple[bytes, PackBuilder]:
    builder = PackBuilder(DATA_MAGIC, pack_buffer())
    for data in contents:
        name = chunks.chunk_id(data, tree=False)
        builder.add(name, KEY_ID, chunks.seal(name, data, KEY_ID), len(data))
    return builder.finish(objects), builder


def stored_pack(storage: MemoryStorage, chunks: ChunkSealer, objects: ObjectSealer, *contents: bytes) -> PackListing:
    pack_id, builder = pack_of(chunks, objects, list(contents))
    storage.put(pack_key(pack_id), builder.body)
    return PackListing(pack_id, builder.size, builder.entries)


def directory(storage: MemoryStorage, objects: ObjectSealer, pack_id: bytes) -> list[Entry]:
    return read_directory(storage, objects, pack_id, storage.stat(pack_key(pack_id)).size)


@pytest.fixture(params=[16 * 1024, 150, 12])
def _read_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small pack is read at once, a larger one by its end, which may hold the whole directory or just the trailer."""
    monkeypatch.setattr(pack_reader, "TAIL_SIZE", request.param)


@pytest.mark.usefixtures("_read_size")
def test_a_pack_tells_what_is_in_it(storage: MemoryStorage, chunks: ChunkSealer, objects: ObjectSealer) -> None:
    contents = [b"one", b"two" * 1000, b"three"]
    pack = stored_pack(storage, chunks, objects, *contents)
    assert directory(storage, objects, pack.pack_id) == pack.entries
    body = storage.objects[pack_key(pack.pack_id)]
    check_content_name(pack_key(pack.pack_id), body)
    for entry, data in zip(pack.entries, contents, strict=True):
        sealed = body[entry.offset : entry.offset + entry.sealed_size]
        assert chunks.open(entry.chunk_id, sealed, entry.key_id, entry.size) == data


def test_equal_packs_have_different_names(chunks: ChunkSealer, objects: ObjectSealer) -> None:
    assert pack_of(chunks, objects, [b"same"])[0] != pack_of(chunks, objects, [b"same"])[0]
    assert pack_of(chunks, objects, [])[0] != pack_of(chunks, objects, [])[0]


def test_a_buffer_serves_for_one_pack_after_another(
    storage: MemoryStorage, chunks: ChunkSealer, objects: ObjectSealer
) -> None:
    buffer = pack_buffer()
    buffer.write(b"left from before" * 1000)
    for number in range(3):
        builder = PackBuilder(DATA_MAGIC, buffer)
        name = chunks.chunk_id(b"data" * number * 100 + b".", tree=False)
        builder.add(name, KEY_ID, chunks.seal(name, b"data" * number * 100 + b".", KEY_ID), number * 400 + 1)
        pack_id = builder.finish(objects)
        storage.put(pack_key(pack_id), builder.body)
        assert directory(storage, objects, pack_id) == builder.entries
        check_content_name(pack_key(pack_id), storage.objects[pack_key(pack_id)])


def test_a_pack_grows_beyond_its_buffer(storage: MemoryStorage, chunks: ChunkSealer, objects: ObjectSealer) -> None:
    builder = PackBuilder(DATA_MAGIC, pack_buffer())
    sealed = bytes(range(256)) * (len(builder.buffer) // 512 + 1)
    for number in range(2):
        builder.add(bytes([number]) * 32, KEY_ID, sealed, 1)
    pack_id = builder.finish(objects)
    storage.put(pack_key(pack_id), builder.body)
    assert directory(storage, objects, pack_id) == builder.entries
    assert all(storage.get(pack_key(pack_id), entry.offset, len(sealed)) == sealed for entry in builder.entries)


def swapped_magic(body: bytes) -> bytes:
    return b"DRKITP1x" + body[8:]


def longer_directory(body: bytes) -> bytes:
    return body[: -TRAILER.size] + TRAILER.pack(len(body), b"DRKITEND")


def tree_instead_of_data(body: bytes) -> bytes:
    return b"DRKITP1t" + body[8:]


def other_salt(body: bytes) -> bytes:
    return body[:8] + bytes(16) + body[HEADER_SIZE:]


@pytest.mark.usefixtures("_read_size")
@pytest.mark.parametrize(
    "damage",
    [
        swapped_magic,
        tree_instead_of_data,
        other_salt,
        longer_directory,
        lambda body: body[:-1],
        lambda body: body + b"x",
        lambda body: body[: HEADER_SIZE + 5],
        lambda body: b"",
        lambda body: body[:-13] + bytes([body[-13] ^ 1]) + body[-12:],  # the last byte of the directory
    ],
)
def test_damaged_packs(
    storage: MemoryStorage, chunks: ChunkSealer, objects: ObjectSealer, damage: Callable[[bytes], bytes]
) -> None:
    pack = stored_pack(storage, chunks, objects, b"one", b"two")
    key = pack_key(pack.pack_id)
    storage.objects[key] = damage(storage.objects[key])
    with pytest.raises(IntegrityError) as caught:
        directory(storage, objects, pack.pack_id)
    assert caught.value.object_name == key
    assert key in caught.value.message
    with pytest.raises(IntegrityError, match="damaged"):
        check_content_name(key, storage.objects[key])
    [(_, found)] = read_directories(storage, objects, {pack.pack_id: len(storage.objects[key])})
    assert isinstance(found, IntegrityError)
    assert found.object_name == key


def test_a_missing_pack(storage: MemoryStorage, objects: ObjectSealer) -> None:
    with pytest.raises(ObjectNotFound):
        read_directory(storage, objects, bytes(32), 1000)
    assert list(read_directories(storage, objects, {bytes(32): 1000})) == []


@pytest.mark.parametrize(
    "key", ["packs/readme", "packs/00/" + "1" * 64, "packs/11/" + "1" * 63, "packs/11/" + "1" * 66, "packs/xx/xx"]
)
def test_names_that_no_pack_has(key: str) -> None:
    assert pack_id_of(pack_key(b"\xab" * 32)) == b"\xab" * 32
    assert pack_id_of(key) is None


def test_lists_of_chunks_have_whole_entries() -> None:
    entry = Entry(bytes(32), bytes(16), 24, 100, 72)
    packed = ENTRY.pack(*entry)
    assert len(packed) == 60
    assert decode_entries(packed * 2, source="x") == [entry, entry]
    with pytest.raises(IntegrityError, match="not hold a whole number of entries"):
        decode_entries(packed[:-1], source="x")


# --- index ------------------------------------------------------------------------------------------------------------


def listing(number: int, entries: int, first: int = 0) -> PackListing:
    return PackListing(
        number.to_bytes(32, "big"),
        1000,
        [Entry((first + i).to_bytes(32, "big"), KEY_ID, 24 + i, 1, 1) for i in range(entries)],
    )


def test_index_objects_are_bounded() -> None:
    packs = [listing(number, 30_000) for number in range(8)] + [listing(8, MAX_ENTRIES + 1), listing(9, 0)]
    payloads = list(encode_packs(pack.packed() for pack in packs))
    assert [pack.listing() for payload in payloads for pack in decode_packs(payload, source="x")] == packs
    assert [sum(pack.chunks for pack in decode_packs(payload, source="x")) for payload in payloads] == [
        90_000,
        90_000,
        60_000,
        MAX_ENTRIES + 1,
        0,
    ]
    assert list(encode_packs([])) == []


def test_index_objects_that_end_early() -> None:
    [payload] = encode_packs([listing(1, 3).packed()])
    assert list(decode_packs(b"", source="x")) == []
    for cut in range(1, len(payload)):
        with pytest.raises(IntegrityError, match="ends within a pack"):
            list(decode_packs(payload[:cut], source="x"))


def test_the_index_finds_chunks() -> None:
    index = Index()
    index.add(listing(1, 3).packed())
    index.add(listing(1, 3).packed())
    index.add(listing(2, 3, first=2).packed())
    assert len(index) == 5
    assert index.pack_sizes == {(1).to_bytes(32, "big"): 1000, (2).to_bytes(32, "big"): 1000}
    shared = index.get((2).to_bytes(32, "big"))
    assert shared is not None
    assert shared.pack_id == (1).to_bytes(32, "big")
    assert (shared.key_id, shared.offset, shared.sealed_size, shared.size) == (KEY_ID, 26, 1, 1)
    assert index.get(b"x" * 32) is None
    assert (0).to_bytes(32, "big") in index
    assert index.key_ids() == [KEY_ID]


def test_a_writer_passes_over_chunks_whose_key_is_gone_or_condemned(
    storage: MemoryStorage, chunks: ChunkSealer, objects: ObjectSealer
) -> None:
    put_index(storage, objects, [stored_pack(storage, chunks, objects, b"one").packed()])
    assert len(index_for_writing(storage, objects)[0]) == 1
    assert len(index_for_writing(storage, objects, without=frozenset({bytes(32)}))[0]) == 0
    del storage.objects[WRAP]
    assert len(index_for_writing(storage, objects)[0]) == 0


def test_the_index_is_all_index_objects(storage: MemoryStorage, chunks: ChunkSealer, objects: ObjectSealer) -> None:
    one, two = (stored_pack(storage, chunks, objects, data) for data in (b"one", b"two"))
    put_index(storage, objects, [one.packed()])
    put_index(storage, objects, [two.packed()])
    put_index(storage, objects, [])
    names = [key for key in storage.objects if key.startswith(INDEX_PREFIX)]
    assert len(names) == 2
    for name in names:
        assert name == INDEX_PREFIX + hashlib.sha256(storage.objects[name]).hexdigest()
        assert get_index(storage, objects, name) in ([one.packed()], [two.packed()])
    index, damage = index_for_writing(storage, objects)
    assert (len(index), damage) == (2, [])
    index, _ = index_for_writing(storage, objects, without=frozenset([one.pack_id]))
    assert [name in index for name in (one.entries[0].chunk_id, two.entries[0].chunk_id)] == [False, True]


def test_a_writer_counts_only_on_packs_that_are_there(
    storage: MemoryStorage, chunks: ChunkSealer, objects: ObjectSealer
) -> None:
    packs = [stored_pack(storage, chunks, objects, data) for data in (b"one", b"two", b"three")]
    put_index(storage, objects, [pack.packed() for pack in packs])
    del storage.objects[pack_key(packs[0].pack_id)]
    storage.objects[pack_key(packs[1].pack_id)] += b"x"
    index, damage = index_for_writing(storage, objects)
    assert list(index.pack_sizes) == [packs[2].pack_id]
    assert damage == []


def test_a_reader_gets_along_without_a_damaged_index(
    storage: MemoryStorage, chunks: ChunkSealer, objects: ObjectSealer
) -> None:
    packs = [stored_pack(storage, chunks, objects, data) for data in (b"one", b"two")]
    for pack in packs:
        put_index(storage, objects, [pack.packed()])
    name = next(key for key in storage.objects if key.startswith(INDEX_PREFIX))
    storage.objects[name] = storage.objects[name][:-1]
    index, damage = index_for_reading(storage, objects)
    assert len(index) == 2
    assert [error.object_name for error in damage] == [name]
    index, damage = index_for_writing(storage, objects)
    assert (len(index), [error.object_name for error in damage]) == (1, [name])


def test_a_chunk_in_two_packs_is_read_from_the_one_that_is_left(
    storage: MemoryStorage, chunks: ChunkSealer, objects: ObjectSealer
) -> None:
    packs = [stored_pack(storage, chunks, objects, b"same") for _ in range(2)]
    put_index(storage, objects, [pack.packed() for pack in packs])
    for gone, left in [(0, 1), (1, 0)]:
        body = storage.objects.pop(pack_key(packs[gone].pack_id))
        index, _ = index_for_reading(storage, objects)
        location = index.get(packs[0].entries[0].chunk_id)
        assert location is not None
        assert location.pack_id == packs[left].pack_id
        storage.objects[pack_key(packs[gone].pack_id)] = body
