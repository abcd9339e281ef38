"""Packs that go are held against what they say themselves: the index may lie, and what a prune deletes is gone.

Only the packs that go are read, and the homes of what else lies in them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Set

from drkit.errors import AccessDenied, IntegrityError, ObjectNotFound
from drkit.repository.chunk_finder import open_chunk
from drkit.repository.directories import Directories
from drkit.repository.format.packs import ENTRY, Entry, pack_key
from drkit.repository.index import Location, PackedListing
from drkit.repository.prune.survey import Survey, lying_index
from drkit.repository.repository import Repository

_FEW = 8
"""So many chunks of a pack are read by themselves, more of them with the whole pack."""


def require_truth(repository: Repository, found: Survey, going: Set[bytes]) -> None:
    """Raise IntegrityError if the index says of a pack that goes something else than the pack's own directory.

    The same holds for the homes of chunks that are needed and lie in such packs too. A damaged directory says nothing.
    """
    directories = repository.directories
    directories.read({pack_id: found.stored[pack_id] for pack_id in going})
    _compare(directories, found, going)
    homes = {found.packs[home].pack_id for _, _, home in _also_elsewhere(directories, found, going)}
    directories.read({pack_id: found.stored[pack_id] for pack_id in homes})
    _compare(directories, found, homes)


def _compare(directories: Directories, found: Survey, pack_ids: Set[bytes]) -> None:
    for key, packs in found.objects.items():
        for pack in packs:
            if pack.pack_id in pack_ids and directories.of(pack.pack_id) not in (None, pack):
                raise lying_index(key, pack.pack_id, "otherwise than that pack's own directory does")


def unproven(repository: Repository, found: Survey, going: Iterable[bytes]) -> set[bytes]:
    """Return those of the packs that must not go, since a chunk that is needed might be lost with them.

    Its home is another pack, where it must either open, with the content that it is named after, or be sealed in the
    same bytes. So a pack that claims chunks which it does not really hold never displaces them.
    """
    directories = repository.directories
    by_home: defaultdict[int, defaultdict[bytes, set[bytes]]] = defaultdict(lambda: defaultdict(set))
    for pack_id, chunk_id, home in _also_elsewhere(directories, found, going):
        by_home[home][chunk_id].add(pack_id)
    spared: set[bytes] = set()
    for home, holders in by_home.items():
        there = _read(repository, found.packs[home].pack_id, holders.keys())
        left = {chunk_id: there.get(chunk_id, []) for chunk_id in holders}
        left = {chunk_id: copies for chunk_id, copies in left.items() if not _opens(repository, chunk_id, copies)}
        for pack_id in {pack_id for chunk_id in left for pack_id in holders[chunk_id]} - spared:
            ours = [chunk_id for chunk_id in left if pack_id in holders[chunk_id]]
            here = _read(repository, pack_id, ours)
            if not all(_same(here.get(chunk_id, []), left[chunk_id]) for chunk_id in ours):
                spared.add(pack_id)
    return spared


def key_ids(repository: Repository, pack_ids: Iterable[bytes]) -> set[bytes]:
    """The keys of all chunks in these packs, as their own directories tell."""
    packs = repository.directories.some(pack_ids)
    return {key_id for pack in packs for _, key_id, *_ in ENTRY.iter_unpack(pack.entries)}


def _also_elsewhere(
    directories: Directories, found: Survey, pack_ids: Iterable[bytes]
) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield the chunks in these packs that are needed, and whose home is another pack: pack, chunk, number of home."""
    numbers = {pack.pack_id: number for number, pack in enumerate(found.packs)}
    for pack_id in pack_ids:
        number = numbers.get(pack_id)
        pack = directories.of(pack_id) or (found.packs[number] if number is not None else None)
        for chunk_id, *_ in ENTRY.iter_unpack(pack.entries) if pack is not None else ():
            home = found.home_of_needed(chunk_id)
            if home is not None and home != number:
                yield pack_id, chunk_id, home


_Copy = tuple[Location, bytes]


def _read(repository: Repository, pack_id: bytes, chunk_ids: Iterable[bytes]) -> dict[bytes, list[_Copy]]:
    """Return the sealed bytes of these chunks where the pack's directory lists them; of a damaged pack what is left."""
    pack, copies = repository.directories.of(pack_id), defaultdict(list)
    if pack is None:
        return {}
    wanted = set(chunk_ids)
    entries = [entry for entry in pack.listing().entries if entry.chunk_id in wanted]
    for entry, sealed in _bytes_of(repository, pack, entries):
        copies[entry.chunk_id].append((Location(pack_id, *entry[1:]), sealed))
    return copies


def _bytes_of(repository: Repository, pack: PackedListing, entries: list[Entry]) -> Iterator[tuple[Entry, bytes]]:
    key = pack_key(pack.pack_id)
    try:
        body = memoryview(repository.storage.get(key)) if len(entries) > _FEW else None
        for entry in entries:
            end = entry.offset + entry.sealed_size
            if end > pack.size:
                continue
            if body is None:
                yield entry, repository.storage.get(key, entry.offset, entry.sealed_size)
            else:
                yield entry, bytes(body[entry.offset : end])
    except (IntegrityError, ObjectNotFound):
        return  # it is cut short or gone: what was not read counts as not being there


def _opens(repository: Repository, chunk_id: bytes, copies: list[_Copy]) -> bool:
    for location, sealed in copies:
        try:
            open_chunk(repository, chunk_id, location, sealed, compare=True)
        except (IntegrityError, AccessDenied):
            continue
        return True
    return False


def _same(copies: list[_Copy], others: list[_Copy]) -> bool:
    """Whether each of these copies is among the others: sealed with the same key, in the same bytes."""

    def content(copy: _Copy) -> tuple[bytes, int, bytes]:
        return copy[0].key_id, copy[0].size, copy[1]

    return bool(copies) and set(map(content, copies)) <= set(map(content, others))
