"""Reading chunks back: decoded ahead by a few threads, in bounded memory."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from types import TracebackType
from typing import NamedTuple

from drkit.errors import DrkitError, IntegrityError
from drkit.repository.chunk_finder import ChunkFinder, GetRange
from drkit.repository.format.packs import pack_key
from drkit.repository.format.snapshot import Target, tree_chunk_ids
from drkit.repository.format.tree import EXTENT, Member, decode_members
from drkit.repository.futures import result_of
from drkit.repository.index import Location
from drkit.repository.repository import Repository
from drkit.tuning import keep_freed_memory

AHEAD = 24 * 1024 * 1024
"""Bytes of decoded chunks kept: those read ahead, and recent ones that scattered members ask for again.

For a storage that wants large requests more is added, so that all of its parallel gets have something to do."""
RANGES_AHEAD = 1000

_END = (b"", 0, 0)


class _Wanted(NamedTuple):
    chunk_id: bytes
    chunk: Future[bytes]
    start: int
    end: int

    def piece(self) -> memoryview:
        data = result_of(self.chunk)
        if self.end > len(data):
            raise IntegrityError(
                f"an extent ends at {self.end} in a chunk of {len(data)} bytes", hint="Run drkit check."
            )
        return memoryview(data)[self.start : self.end]


class _Part(NamedTuple):
    """A chunk to be fetched, and the future that its readers wait for."""

    chunk_id: bytes
    location: Location
    tree: bool
    chunk: Future[bytes]


class ChunkReader:
    """Reads chunks, trees and extents of one repository. A context manager: leaving it stops its threads."""

    def __init__(self, repository: Repository, get: GetRange | None = None) -> None:
        """`get` reads packs in place of the repository's storage."""
        keep_freed_memory()
        self._repository = repository
        storage = repository.storage
        self._get = get or storage.get
        self._finder = ChunkFinder(repository, self._get)
        self._request_size = storage.traits.request_size
        # Whole packs that are at hand take the place of what is read ahead.
        self._ahead = AHEAD // 3 if get else AHEAD + 2 * storage.traits.parallel_gets * storage.traits.request_size
        self._gathered: list[_Part] = []
        self._pool = ThreadPoolExecutor(storage.traits.parallel_gets, thread_name_prefix="drkit-read")
        self._recent: OrderedDict[bytes, tuple[Future[bytes], int]] = OrderedDict()
        self._recent_bytes = 0

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def locate(self, chunk_id: bytes) -> Location:
        """Return where a chunk lies. Raises IntegrityError when no index object and no pack knows it."""
        return self._finder.locate(chunk_id)

    def chunk(self, chunk_id: bytes, *, tree: bool = False) -> bytes:
        """Return one chunk; one of a `tree` has the content that it is named after.

        Raises IntegrityError naming the pack when it is missing or damaged.
        """
        chunk = self._request(chunk_id, tree=tree)
        self._fetch_gathered()
        return result_of(chunk)

    def members(self, target: Target) -> Iterator[Member]:
        """Yield the members of a target in order."""
        chunks = (self.chunk(chunk_id, tree=True) for chunk_id in tree_chunk_ids(target))
        return decode_members(chunks, source=target.title)

    def extents(self, members: Iterable[Member]) -> Iterator[memoryview]:
        """Yield the raw bytes of `members`, concatenated, in pieces as large as neighbouring extents allow."""
        ahead: deque[_Wanted] = deque()
        # However little of it is wanted, a whole chunk waits: so whole chunks are counted, each once.
        uses: Counter[bytes] = Counter()
        sizes: dict[bytes, int] = {}  # a chunk that is found elsewhere than the index says may have another size
        waiting = 0
        for chunk_id, start, end in _ranges(members):
            wanted = _Wanted(chunk_id, self._request(chunk_id), start, end)
            ahead.append(wanted)
            uses[chunk_id] += 1
            if uses[chunk_id] == 1:
                sizes[chunk_id] = self.locate(chunk_id).size
                waiting += sizes[chunk_id]
            while waiting > self._ahead // 2 or len(ahead) > RANGES_AHEAD:
                wanted = ahead.popleft()
                uses[wanted.chunk_id] -= 1
                if not uses[wanted.chunk_id]:
                    del uses[wanted.chunk_id]
                    waiting -= sizes.pop(wanted.chunk_id)
                if self._is_gathered(wanted.chunk):
                    self._fetch_gathered()
                yield wanted.piece()
        self._fetch_gathered()
        while ahead:
            yield ahead.popleft().piece()

    def _request(self, chunk_id: bytes, *, tree: bool = False) -> Future[bytes]:
        known = self._recent.get(chunk_id)
        if known is not None:
            self._recent.move_to_end(chunk_id)
            return known[0]
        location = self.locate(chunk_id)
        if not self._joins(location):
            self._fetch_gathered()
        future: Future[bytes] = Future()
        self._gathered.append(_Part(chunk_id, location, tree, future))
        if location.sealed_size >= self._request_size:
            self._fetch_gathered()
        self._recent[chunk_id] = (future, location.size)
        self._recent_bytes += location.size
        while self._recent_bytes > self._ahead and len(self._recent) > 1:
            _, (_, size) = self._recent.popitem(last=False)
            self._recent_bytes -= size
        return future

    def _joins(self, location: Location) -> bool:
        """Whether one request can fetch this chunk with those gathered so far, since it follows them in their pack."""
        if not self._gathered:
            return True
        first, last = self._gathered[0].location, self._gathered[-1].location
        end = location.offset + location.sealed_size
        return (
            last.pack_id == location.pack_id
            and last.offset + last.sealed_size == location.offset
            and end - first.offset <= self._request_size
        )

    def _is_gathered(self, chunk: Future[bytes]) -> bool:
        return any(part.chunk is chunk for part in self._gathered)

    def _fetch_gathered(self) -> None:
        if self._gathered:
            self._pool.submit(self._fetch, self._gathered)
            self._gathered = []

    def _fetch(self, parts: list[_Part]) -> None:
        """Fetch neighbours by one request. If that fails, fetch each alone: one that cannot be read spoils no other."""
        body, start = memoryview(b""), parts[0].location.offset
        if len(parts) > 1:
            size = parts[-1].location.offset + parts[-1].location.sealed_size - start
            with suppress(DrkitError):
                body = memoryview(self._get(pack_key(parts[0].location.pack_id), start, size))
        for part in parts:
            offset = part.location.offset - start
            try:
                sealed = body[offset : offset + part.location.sealed_size]
                part.chunk.set_result(self._finder.open(part.chunk_id, part.location, sealed, tree=part.tree))
            except BaseException as error:  # noqa: BLE001 raised again where the chunk is waited for
                part.chunk.set_exception(error)


def _ranges(members: Iterable[Member]) -> Iterator[tuple[bytes, int, int]]:
    """Yield (chunk id, start, end) with neighbouring extents of one chunk joined."""
    current, start, end = _END
    for chunk_id, offset, length in chain.from_iterable(EXTENT.iter_unpack(member.extents) for member in members):
        if chunk_id == current and offset == end:
            end += length
            continue
        if current:
            yield current, start, end
        current, start, end = chunk_id, offset, offset + length
    if current:
        yield current, start, end
