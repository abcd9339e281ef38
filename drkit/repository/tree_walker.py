"""Which chunks snapshots refer to. Every distinct stretch of a tree is read once, however many snapshots share it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from drkit.errors import IntegrityError
from drkit.repository.format.tree import EXTENT, scan_chunk

WORKERS = 4
AHEAD = 8
"""Tree chunks read ahead; most have a quarter of a megabyte, the longest four."""
_LONGEST_REST = 64 * 1024

Tree = tuple[bytes, ...]
Stretch = tuple[bytes, bytes]
"""The id of a tree chunk, and the beginning of a record that the chunk before it left over."""


class TreeWalker:
    """Yields the chunks that trees refer to, but not again for a stretch that an earlier tree shares.

    A chunk may start within a record that began in the chunk before. So its id and that beginning tell what a stretch
    holds. Equal trees, and equal stretches of trees that differ, are skipped without being read.
    """

    def __init__(self, read: Callable[[bytes], bytes]) -> None:
        self._read = read
        self._trees: set[Tree] = set()
        self._walked: dict[Stretch, bytes] = {}
        self._known: set[bytes] = set()

    def walk(self, name: str, tree: Tree) -> Iterator[bytes]:
        """Yield the ids of the tree's own chunks and of all that they refer to; many ids more than once.

        `name` is for errors. Raises whatever reading raises, and IntegrityError for what is not a tree.
        """
        if tree in self._trees:
            return
        yield from tree
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="drkit-tree") as pool:
            yield from self._walk(name, tree, pool)
        self._trees.add(tree)

    def stretches(self, name: str, tree: Tree) -> Iterator[tuple[Stretch | None, list[bytes] | None]]:
        """Yield, for each chunk of a tree in order, its stretch and the packed extents in it.

        The extents are None if they were yielded before for the same stretch. The stretch is None if it will not be
        remembered.
        """
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="drkit-tree") as pool:
            yield from self._stretches(name, tree, pool)

    def _walk(self, name: str, tree: Sequence[bytes], pool: ThreadPoolExecutor) -> Iterator[bytes]:
        for _, extents in self._stretches(name, tree, pool):
            for packed in extents or ():
                for start in range(0, len(packed), EXTENT.size):
                    yield packed[start : start + 32]

    def _stretches(
        self, name: str, tree: Sequence[bytes], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[Stretch | None, list[bytes] | None]]:
        rest = b""
        reading = _Ahead(self._read, pool, [chunk_id for chunk_id in tree if chunk_id not in self._known])
        for chunk_id in tree:
            stretch = (chunk_id, rest)
            known = self._walked.get(stretch)
            if known is not None:
                rest = known
                yield stretch, None
                continue
            data = rest + reading.take(chunk_id)
            self._known.add(chunk_id)
            extents, whole = scan_chunk(data, source=name)
            remembered = len(rest) <= _LONGEST_REST and len(data) - whole <= _LONGEST_REST
            rest = data[whole:]
            yield stretch if remembered else None, extents
            if remembered:
                self._walked[stretch] = rest
        if rest:
            raise IntegrityError(f"the tree of {name} ends within a member", hint="Run drkit check.")


class _Ahead:
    """Reads chunks that will probably be wanted, in order, a few at a time."""

    def __init__(self, read: Callable[[bytes], bytes], pool: ThreadPoolExecutor, wanted: Sequence[bytes]) -> None:
        self._read, self._pool = read, pool
        self._wanted = iter(dict.fromkeys(wanted))
        self._reading: deque[tuple[bytes, Future[bytes]]] = deque()
        self._fill()

    def take(self, chunk_id: bytes) -> bytes:
        if not self._reading or self._reading[0][0] != chunk_id:
            return self._read(chunk_id)  # known, but after another beginning
        _, future = self._reading.popleft()
        self._fill()
        return future.result()

    def _fill(self) -> None:
        while len(self._reading) < AHEAD and (chunk_id := next(self._wanted, None)) is not None:
            self._reading.append((chunk_id, self._pool.submit(self._read, chunk_id)))
