"""Which chunks snapshots refer to: every distinct stretch of a tree is read once, however many snapshots share it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from drkit.errors import IntegrityError
from drkit.repository.format.tree import EXTENT, scan_chunk

WORKERS = 4
AHEAD = 8
"""Tree chunks read ahead; each is at most a megabyte."""
_LONGEST_REST = 64 * 1024

Tree = tuple[bytes, ...]
Step = tuple[bytes, bytes]
"""A chunk of a tree, and the beginning of a record that the chunk before left over."""


class TreeWalker:
    """Yields the chunks of trees. What it has yielded for a stretch of one tree it does not yield for another's.

    A chunk of a tree starts within a record that the chunk before began. So what a chunk holds is known by its id and
    that beginning; equal trees, and the equal stretches of trees that differ, are passed over without reading them.
    """

    def __init__(self, read: Callable[[bytes], bytes]) -> None:
        self._read = read
        self._trees: set[Tree] = set()
        self._walked: dict[tuple[bytes, bytes], bytes] = {}
        self._known: set[bytes] = set()
        self.chunks_read = 0

    def walk(self, name: str, tree: Tree) -> Iterator[bytes]:
        """Yield the ids of the tree's own chunks and of all that they refer to; many of them more than once.

        `name` is for errors. Raises whatever reading raises, IntegrityError for what is no tree.
        """
        if tree in self._trees:
            return
        yield from tree
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="drkit-tree") as pool:
            yield from self._walk(name, tree, pool)
        self._trees.add(tree)

    def stretches(self, name: str, tree: Tree) -> Iterator[tuple[Step | None, list[bytes] | None]]:
        """Yield, for each chunk of a tree in order, which step it is and the packed extents in it.

        None for extents that were yielded before for the same step; None for a step that is not remembered.
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
    ) -> Iterator[tuple[Step | None, list[bytes] | None]]:
        rest = b""
        reading = _Ahead(self._read, pool, [chunk_id for chunk_id in tree if chunk_id not in self._known])
        for chunk_id in tree:
            step = (chunk_id, rest)
            known = self._walked.get(step)
            if known is not None:
                rest = known
                yield step, None
                continue
            data = rest + reading.take(chunk_id)
            self.chunks_read += 1
            self._known.add(chunk_id)
            extents, whole = scan_chunk(data, source=name)
            rest = data[whole:]
            remembered = len(step[1]) <= _LONGEST_REST and len(rest) <= _LONGEST_REST
            yield step if remembered else None, extents
            if remembered:
                self._walked[step] = rest
        if rest:
            raise IntegrityError(f"the tree of {name} ends within a member", hint="Run drkit check.")


class _Ahead:
    """Reads chunks that will most likely be wanted, in order, a few at a time."""

    def __init__(self, read: Callable[[bytes], bytes], pool: ThreadPoolExecutor, wanted: Sequence[bytes]) -> None:
        self._read, self._pool = read, pool
        self._wanted = iter(dict.fromkeys(wanted))
        self._reading: deque[tuple[bytes, Future[bytes]]] = deque()
        self._fill()

    def take(self, chunk_id: bytes) -> bytes:
        if not self._reading or self._reading[0][0] != chunk_id:
            return self._read(chunk_id)  # known, but from after another beginning
        _, future = self._reading.popleft()
        self._fill()
        return future.result()

    def _fill(self) -> None:
        while len(self._reading) < AHEAD and (chunk_id := next(self._wanted, None)) is not None:
            self._reading.append((chunk_id, self._pool.submit(self._read, chunk_id)))
