"""Index objects that lie, as whoever holds the meta key can make them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from drkit.repository.format.names import content_name
from drkit.repository.format.packs import Entry, encode_entries
from drkit.repository.index import INDEX_PREFIX, PackedListing, PackListing, encode_packs, get_index, index_keys
from drkit.repository.repository import Repository

Listings = list[PackedListing]
Lie = Callable[[Listings, random.Random], Listings]


def true_listings(repository: Repository) -> Listings:
    storage, sealer = repository.storage, repository.objects
    return [pack for key in index_keys(storage) for pack in get_index(storage, sealer, key)]


def forge(repository: Repository, lies: Listings, *, first: bool = True) -> str:
    """Store an index object, ground so that it sorts before all that are there, or behind them."""
    return forge_payload(repository, b"".join(encode_packs(lies)), first=first)


def forge_payload(repository: Repository, payload: bytes, *, first: bool = True) -> str:
    there = sorted(index_keys(repository.storage)) or [INDEX_PREFIX + "8"]
    while True:
        body = repository.objects.seal("index", b"", payload)
        key = INDEX_PREFIX + content_name(body)
        if (key < there[0]) if first else (key > there[-1]):
            repository.storage.put(key, body)
            return key


def _each(change: Callable[[Entry], Entry]) -> Lie:
    def lie(packs: Listings, rng: random.Random) -> Listings:
        return [pack._replace(entries=encode_entries(map(change, pack.listing().entries))) for pack in packs]

    return lie


def _all_entries(packs: Sequence[PackedListing]) -> list[Entry]:
    return [entry for pack in packs for entry in pack.listing().entries]


def _of_another_pack(packs: Listings, rng: random.Random) -> Listings:
    return [pack._replace(entries=other.entries) for pack, other in zip(packs, packs[1:] + packs[:1], strict=True)]


def _claims_all(packs: Listings, rng: random.Random) -> Listings:
    """Every pack lists the chunks of all."""
    everything = _all_entries(packs)
    return [PackListing(pack.pack_id, pack.size, rng.sample(everything, len(everything))).packed() for pack in packs]


def _half(packs: Listings, rng: random.Random) -> Listings:
    lists = [pack.listing() for pack in packs]
    return [
        PackListing(each.pack_id, each.size, rng.sample(each.entries, (len(each.entries) + 1) // 2)).packed()
        for each in lists
    ]


def _packs_that_are_not_there(packs: Listings, rng: random.Random) -> Listings:
    return [pack._replace(pack_id=rng.randbytes(32)) for pack in packs]


def _one_pack_has_all(packs: Listings, rng: random.Random) -> Listings:
    """One pack lists what lies in the others: of these nothing is said."""
    pack = rng.choice(packs)
    others = [other for other in packs if other != pack]
    return [pack._replace(entries=encode_entries(_all_entries(others)))]


LIES: dict[str, Lie] = {
    "shifted offsets": _each(lambda entry: entry._replace(offset=entry.offset + 7)),
    "offsets beyond the pack": _each(lambda entry: entry._replace(offset=entry.offset + (1 << 31))),
    "offsets in the header": _each(lambda entry: entry._replace(offset=entry.offset % 20)),
    "no entries": lambda packs, rng: [pack._replace(entries=b"") for pack in packs],
    "half of the entries": _half,
    "entries of another pack": _of_another_pack,
    "a pack has all": _one_pack_has_all,
    "each pack has all": _claims_all,
    "other sizes of packs": lambda packs, rng: [pack._replace(size=pack.size + 1) for pack in packs],
    "other sizes of sealed chunks": _each(lambda entry: entry._replace(sealed_size=entry.sealed_size - 1)),
    "chunks of no size": _each(lambda entry: entry._replace(sealed_size=0)),
    "other sizes of chunks": _each(lambda entry: entry._replace(size=entry.size + 1)),
    "huge sizes of chunks": _each(lambda entry: entry._replace(size=60 << 20)),
    "key ids that nobody has": _each(lambda entry: entry._replace(key_id=b"nobody has this!")),
    "the key id of trees": _each(lambda entry: entry._replace(key_id=bytes(16))),
    "packs that are not there": _packs_that_are_not_there,
}
HARMLESS = {"packs that are not there"}
"""Beside the genuine listing: nothing tells that such packs were not deleted by a prune."""


def tell(repository: Repository, lie: str, rng: random.Random, *, instead: bool, first: bool) -> str:
    """Forge an index object; `instead` of all that are there, or beside them."""
    lies = LIES[lie](true_listings(repository), rng)
    genuine = index_keys(repository.storage)
    key = forge(repository, lies, first=first)
    if instead:
        for each in genuine:
            repository.storage.delete(each)
    return key
