"""Packs as a storage holds them: which there are, and their bytes or directories, read a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import NamedTuple, TypeVar

from drkit.errors import IntegrityError, ObjectNotFound
from drkit.repository.format.limits import PACK
from drkit.repository.format.names import check_content_name
from drkit.repository.format.objects import ObjectSealer
from drkit.repository.format.packs import (
    HEADER_SIZE,
    PACK_PREFIX,
    TRAILER,
    Entry,
    directory_of,
    directory_size,
    encode_entries,
    open_directory,
    pack_id_of,
    pack_key,
)
from drkit.storage.base import Storage

PACKS_AHEAD = 2
"""Whole packs read while the caller works on another one: up to three at once, 32 MiB each, never 64."""
TAIL_SIZE = 16 * 1024
"""Bytes read from the end of a pack at once. They hold the directory of about 350 chunks, more than most packs have."""

T = TypeVar("T")


def stored_packs(storage: Storage) -> dict[bytes, int]:
    """Return the size in bytes of every pack that is there. Other objects below packs/ are left out."""
    return {pack_id: info.size for info in storage.list(PACK_PREFIX) if (pack_id := pack_id_of(info.key)) is not None}


def get_pack(storage: Storage, pack_id: bytes) -> bytes:
    """Return a whole pack. Raises IntegrityError when its bytes are not those it was named after, ObjectNotFound."""
    key = pack_key(pack_id)
    body = storage.get(key, limit=PACK)
    check_content_name(key, body)
    return body


class WholePack(NamedTuple):
    """A pack that was read whole, the entries of its directory, and what is wrong with it, if anything.

    Without damage its bytes are those that it was named after. With damage there may be no entries.
    """

    pack_id: bytes
    body: bytes
    entries: list[Entry]
    damage: IntegrityError | None


def read_pack(storage: Storage, sealer: ObjectSealer, pack_id: bytes) -> WholePack:
    """Read a whole pack, compare it with its name, and open its directory. Raises ObjectNotFound."""
    key = pack_key(pack_id)
    body = b""
    try:
        body = storage.get(key, limit=PACK)
        check_content_name(key, body)
        return WholePack(pack_id, body, directory_of(sealer, pack_id, memoryview(body)), None)
    except IntegrityError as error:
        return WholePack(pack_id, body, [], error)


def read_packs(storage: Storage, sealer: ObjectSealer, pack_ids: Iterable[bytes]) -> Iterator[WholePack]:
    """Yield packs as read_pack does, in this order; one that is gone is left out.

    Holds three packs at most, if the caller keeps none of them.
    """
    for _, pack in _in_order(partial(read_pack, storage, sealer), pack_ids, workers=PACKS_AHEAD, ahead=PACKS_AHEAD):
        yield pack
        del pack


class Held(NamedTuple):
    """What a whole pack says that it holds: its size, and a digest of all its entries in place of these."""

    size: int
    entries: bytes


def held(size: int, entries: bytes) -> Held:
    """`entries` are those of the pack's directory, packed."""
    return Held(size, blake2b(entries, digest_size=16).digest())


@dataclass
class PacksRead:
    """What reading packs whole has shown. `bytes` counts all that were read."""

    whole: dict[bytes, Held] = field(default_factory=dict)
    """The packs without damage."""
    damaged: list[IntegrityError] = field(default_factory=list)
    bytes: int = 0

    def add(self, pack: WholePack) -> None:
        self.bytes += len(pack.body)
        if pack.damage is None:
            self.whole[pack.pack_id] = held(len(pack.body), encode_entries(pack.entries))
        else:
            self.damaged.append(pack.damage)


def read_directory(storage: Storage, sealer: ObjectSealer, pack_id: bytes, size: int) -> list[Entry]:
    """Return the entries of a pack of `size` bytes from its own directory. Raises IntegrityError, ObjectNotFound.

    One request for a small pack, else two: header and tail, which together are what the directory is sealed with. A
    third one only where more than about 350 chunks are in it.
    """
    key = pack_key(pack_id)
    if size <= TAIL_SIZE:
        return directory_of(sealer, pack_id, storage.get(key, 0, size))
    tail = storage.get(key, size - TAIL_SIZE, TAIL_SIZE)
    missing = directory_size(tail, size, source=key) + TRAILER.size - TAIL_SIZE
    if missing > 0:
        tail = storage.get(key, size - TAIL_SIZE - missing, missing) + tail
    return open_directory(sealer, storage.get(key, 0, HEADER_SIZE), tail, size, source=key)


def read_directories(
    storage: Storage, sealer: ObjectSealer, sizes: Mapping[bytes, int]
) -> Iterator[tuple[bytes, list[Entry] | IntegrityError]]:
    """Yield the entries of packs of these sizes, in this order; a damaged directory as the error that names its pack.

    A pack that is gone is left out. Reads as many at once as the storage serves in parallel.
    """

    def read(pack_id: bytes) -> list[Entry] | IntegrityError:
        try:
            return read_directory(storage, sealer, pack_id, sizes[pack_id])
        except IntegrityError as error:
            return error

    return _in_order(read, sizes, workers=storage.traits.parallel_gets, ahead=2 * storage.traits.parallel_gets)


def _in_order(
    read: Callable[[bytes], T], pack_ids: Iterable[bytes], *, workers: int, ahead: int
) -> Iterator[tuple[bytes, T]]:
    """Yield each pack id with what `read` returns for it, but none whose pack is gone. At most `ahead` results wait."""
    left = iter(pack_ids)
    reading: deque[tuple[bytes, Future[T]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="drkit-packs") as pool:
        try:
            while True:
                while len(reading) < ahead and (pack_id := next(left, None)) is not None:
                    reading.append((pack_id, pool.submit(read, pack_id)))
                if not reading:
                    return
                pack_id, future = reading.popleft()
                try:
                    found = future.result()
                except ObjectNotFound:
                    continue  # a prune deleted it
                del future
                yield pack_id, found
                del found  # before the next one is asked for: it may be a whole pack
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
