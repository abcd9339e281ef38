"""Reading from a storage where a request costs: neighbours are fetched together, and damage hits only what it hits."""

from __future__ import annotations

import random

import pytest

from drkit.errors import IntegrityError
from drkit.repository.format.snapshot import Target
from drkit.repository.format.tree import EXTENT
from drkit.repository.reader import ChunkReader
from drkit.repository.repository import Repository
from drkit.storage.base import Traits
from tests.support.faulty_storage import FaultyStorage
from tests.support.memory_storage import MemoryStorage
from tests.support.repositories import Content, create, random_content, read_content, write_snapshot


def stored(rng: random.Random, request_size: int) -> tuple[FaultyStorage, Repository, Target, Content]:
    inner = MemoryStorage(Traits(request_size=request_size))
    repository, identity = create(inner)
    content = random_content(rng, 30)
    snapshot = write_snapshot(repository, [identity.recipient], "run", {"data": content})
    storage = FaultyStorage(inner)
    return storage, Repository.open(storage, [identity]), snapshot.targets[0], content


def gets(storage: FaultyStorage) -> int:
    return sum(call.kind == "get" and call.key.startswith("packs/") for call in storage.calls)


def read_in_one_stream(repository: Repository, target: Target) -> bytes:
    with ChunkReader(repository) as reader:
        return b"".join(reader.extents(reader.members(target)))


@pytest.mark.parametrize("request_size", [0, 1, 60_000, 200_000, 2 << 20])
def test_the_stream_is_the_same_however_large_the_requests(rng: random.Random, request_size: int) -> None:
    storage, repository, target, content = stored(rng, request_size)
    before = gets(storage)
    assert read_in_one_stream(repository, target) == b"".join(data for _, data in sorted(content.items()))
    requests = gets(storage) - before
    with ChunkReader(repository) as reader:
        chunks = {chunk for member in reader.members(target) for chunk, _, _ in EXTENT.iter_unpack(member.extents)}
    if request_size <= 1:
        assert requests >= len(chunks)
    if request_size == 2 << 20:
        assert requests < len(chunks) / 4
    assert read_content(repository, target) == content


def test_a_member_alone_is_read_without_its_neighbours(rng: random.Random) -> None:
    _, repository, target, content = stored(rng, 2 << 20)
    with ChunkReader(repository) as reader:
        for member in list(reader.members(target)):
            assert b"".join(reader.extents([member])) == content[member.path]


def test_a_damaged_chunk_spoils_no_neighbour(rng: random.Random) -> None:
    storage, repository, target, content = stored(rng, 2 << 20)
    with ChunkReader(repository) as reader:
        members = list(reader.members(target))
        bad = next(member for member in members if len(member.extents) > EXTENT.size)
        location = reader.locate(next(EXTENT.iter_unpack(bad.extents))[0])
    inner = storage.inner
    assert isinstance(inner, MemoryStorage)
    key = next(key for key in inner.objects if key.endswith(location.pack_id.hex()))
    body = bytearray(inner.objects[key])
    body[location.offset + 20] ^= 1
    inner.objects[key] = bytes(body)
    good = 0
    with ChunkReader(repository) as reader:
        stream = reader.extents(members)
        with pytest.raises(IntegrityError, match=location.pack_id.hex()):
            for piece in stream:
                good += len(piece)
        position = [member.path for member in members].index(bad.path)
        assert good == sum(len(content[member.path]) for member in members[:position])
        for member in members[position + 1 :]:
            assert b"".join(reader.extents([member])) == content[member.path]


def test_a_cut_pack_still_gives_what_is_left_of_it(rng: random.Random) -> None:
    """One request for several chunks fails as a whole; those that are there are then fetched alone."""
    storage, repository, target, content = stored(rng, 2 << 20)
    inner = storage.inner
    assert isinstance(inner, MemoryStorage)
    with ChunkReader(repository) as reader:
        members = list(reader.members(target))
        last = [chunk for chunk, _, _ in EXTENT.iter_unpack(members[-1].extents)][-1]
        location = reader.locate(last)
        key = next(key for key in inner.objects if key.endswith(location.pack_id.hex()))
        inner.objects[key] = inner.objects[key][: location.offset + 5]
        for member in members[:-1]:
            assert b"".join(reader.extents([member])) == content[member.path]
        with pytest.raises(IntegrityError, match=location.pack_id.hex()):
            b"".join(reader.extents([members[-1]]))
