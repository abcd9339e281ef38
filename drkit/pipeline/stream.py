"""Reading a tar stream once, in bounded memory: framed into members, digested and, for a capture, cut into chunks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import NamedTuple

from drkit.errors import CaptureFailed
from drkit.pipeline.paths import member_path
from drkit.pipeline.tar.content import ContentHasher
from drkit.pipeline.tar.frames import HARD_LINK, SYMLINK, Frame, TarFramer, member_records
from drkit.repository.format.chunker import DATA_CHUNKS, cut_lengths
from drkit.repository.format.digest import Hasher, keyed_digest, keyed_hasher
from drkit.repository.format.tree import EXTENT

ReadInto = Callable[[memoryview], int]
PutChunk = Callable[[bytes], bytes]
Progress = Callable[[int], None]
"""Told how many bytes were read since the last call."""

BUFFER_SIZE = 9 * 1024 * 1024


class StreamMember(NamedTuple):
    """A member as it came. `extents` is empty unless the stream is chunked, `headers` unless it is split."""

    frame: Frame
    digest: bytes
    extents: bytes = b""
    headers: bytes = b""

    @property
    def leader(self) -> bytes:
        return member_path(self.frame.link) if self.frame.flag == HARD_LINK else b""

    @property
    def symlink(self) -> bytes:
        return self.frame.link if self.frame.flag == SYMLINK else b""


class _Chunk(NamedTuple):
    start: int
    end: int
    chunk_id: bytes


_Waiting = tuple[Frame, bytes, bytes]
"""A member whose bytes are not all chunked yet: frame, digest, headers."""


class MemberStream:
    """The members of a tar stream, in order. Iterate over it once.

    After the last member the whole stream has been read, and `ended` tells whether its end marker was seen. With
    `split`, digests are those of ContentHasher, without the headers, and members carry their headers: for comparing
    members whose bytes differ. Raises CaptureFailed for bytes that are not a tar stream.
    """

    def __init__(
        self, readinto: ReadInto, member_key: bytes, put_chunk: PutChunk | None = None, *, split: bool = False
    ) -> None:
        self._readinto = readinto
        self._member_key = member_key
        self._put_chunk = put_chunk
        self._split = split
        self._framer = TarFramer()
        self._buffer = memoryview(bytearray(BUFFER_SIZE))
        self._base = 0
        self._filled = 0
        self._chunked = 0
        self._members_end = 0
        self._chunks: deque[_Chunk] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._partial: tuple[Frame, Hasher | ContentHasher, bytes] | None = None
        self._hashing: Future[object] | None = None
        self.bytes_read = 0

    @property
    def ended(self) -> bool:
        return self._framer.ended and self._partial is None and not self._waiting

    def __iter__(self) -> Iterator[StreamMember]:
        final = False
        with ThreadPoolExecutor(1, thread_name_prefix="drkit-digest") as beside:
            while not final:
                seen = self._filled
                final = self._fill()
                self._digest(seen, beside)
                if self._put_chunk is not None:
                    self._cut(self._put_chunk, final)
                if self._hashing is not None:
                    self._hashing.result()
                    self._hashing = None
                yield from self._complete()
                self._slide()

    def _fill(self) -> bool:
        """Read more, and return whether that was all.

        Cutting chunks needs a full buffer. Otherwise take what there is, so that digesting goes on while more arrives.
        """
        while self._filled < BUFFER_SIZE:
            count = self._readinto(self._buffer[self._filled :])
            if not count:
                return True
            self._filled += count
            self.bytes_read += count
            if self._put_chunk is None:
                break
        return False

    def _cut(self, put_chunk: PutChunk, final: bool) -> None:
        """Chunk what has arrived, without the end marker and its padding, which would fill a small target's chunk."""
        end = self._members_end if self._framer.ended else min(self._framer.next, self._base + self._filled)
        if end <= self._chunked:
            return
        data = self._buffer[self._chunked - self._base : end - self._base]
        start = 0
        for length in cut_lengths(data, DATA_CHUNKS, final=final or self._framer.ended):
            chunk_id = put_chunk(bytes(data[start : start + length]))
            self._chunks.append(_Chunk(self._chunked, self._chunked + length, chunk_id))
            self._chunked += length
            start += length

    def _digest(self, seen: int, beside: Executor) -> None:
        """Digest what has arrived since `_filled` was `seen`.

        Of a member that goes on beyond the buffer, the part that is there is digested `beside` the chunking.
        """
        base, view = self._base, self._buffer[: self._filled]
        end = base + self._filled
        if self._partial is not None:
            frame, hasher, headers = self._partial
            if frame.end > end:
                self._update(hasher, view[seen:], beside)
                return
            hasher.update(view[seen : frame.end - base])
            self._waiting.append((frame, hasher.digest(), headers))
            self._partial = None
        for frame in self._framer.frames(view, base):
            self._members_end = frame.end
            start, headers = frame.start, b""
            if self._split:
                start, headers = frame.data, bytes(view[frame.start - base : frame.data - base])
                content = ContentHasher(self._member_key, member_records(headers), frame.size)
                content.update(view[start - base : frame.end - base])
                if frame.end <= end:
                    self._waiting.append((frame, content.digest(), headers))
                else:
                    self._partial = (frame, content, headers)
            elif frame.end <= end:
                digest = keyed_digest(self._member_key, view[start - base : frame.end - base])
                self._waiting.append((frame, digest, headers))
            else:
                hasher = keyed_hasher(self._member_key)
                self._update(hasher, view[start - base :], beside)
                self._partial = (frame, hasher, headers)

    def _update(self, hasher: Hasher | ContentHasher, data: memoryview, beside: Executor) -> None:
        if self._put_chunk is None:
            hasher.update(data)
        else:
            self._hashing = beside.submit(hasher.update, data)

    def _complete(self) -> Iterator[StreamMember]:
        """Yield the members whose bytes are all chunked."""
        waiting = self._waiting
        if self._put_chunk is None:
            while waiting:
                frame, digest, headers = waiting.popleft()
                yield StreamMember(frame, digest, b"", headers)
            return
        while waiting and waiting[0][0].end <= self._chunked:
            frame, digest, headers = waiting.popleft()
            yield StreamMember(frame, digest, self._extents(frame), headers)

    def _extents(self, frame: Frame) -> bytes:
        chunks = self._chunks
        while chunks[0].end <= frame.start:
            chunks.popleft()
        start, end, chunk_id = chunks[0]
        if end >= frame.end:  # as almost every small file
            return EXTENT.pack(chunk_id, frame.start - start, frame.end - frame.start)
        packed = []
        for start, end, chunk_id in chunks:
            if start >= frame.end:
                break
            first = max(start, frame.start)
            packed.append(EXTENT.pack(chunk_id, first - start, min(end, frame.end) - first))
        return b"".join(packed)

    def _slide(self) -> None:
        """Move to the buffer's start what is not chunked yet, or belongs to a header that is not all there."""
        end = self._base + self._filled
        keep = min(self._framer.next, end)
        if self._framer.ended:
            keep = end
        elif self._put_chunk is not None:
            keep = min(keep, self._chunked)
        kept = end - keep
        if kept == BUFFER_SIZE:
            raise CaptureFailed("a tar header does not fit the read buffer")
        self._buffer[:kept] = self._buffer[self._filled - kept : self._filled]  # they may overlap
        self._base, self._filled = keep, kept


def watched(readinto: ReadInto, progress: Progress) -> ReadInto:
    """Return a `readinto` that tells `progress` how much each read gave."""

    def read(buffer: memoryview) -> int:
        count = readinto(buffer)
        progress(count)
        return count

    return read


def iterator_readinto(pieces: Iterable[bytes | memoryview]) -> ReadInto:
    """Return a `readinto` over an iterator of bytes."""
    source = iter(pieces)
    rest = memoryview(b"")

    def readinto(buffer: memoryview) -> int:
        nonlocal rest
        while not rest:
            piece = next(source, None)
            if piece is None:
                return 0
            rest = memoryview(piece)
        count = min(len(buffer), len(rest))
        buffer[:count] = rest[:count]
        rest = rest[count:]
        return count

    return readinto
