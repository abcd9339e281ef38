"""Reading a helper's stream ahead of its consumer, so that tar goes on while drkit is busy and the pipe is full."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue

from drkit.pipeline.stream import ReadInto

BLOCK_SIZE = 2 * 1024 * 1024
BLOCKS = 4
"""How much is read ahead at most. With this much, tar and the chunker keep a core busy each."""

_Filled = tuple[memoryview, int] | BaseException


@contextmanager
def read_ahead(readinto: ReadInto) -> Iterator[ReadInto]:
    """Yield a `readinto` over the same stream, which a thread of its own reads ahead, in bounded memory.

    What `readinto` raises is raised again in the reader. Leaving waits for the thread: if the stream can still block,
    end it first.
    """
    free: Queue[memoryview | None] = Queue()
    filled: Queue[_Filled] = Queue()
    for _ in range(BLOCKS):
        free.put(memoryview(bytearray(BLOCK_SIZE)))

    def fill() -> None:
        try:
            while (block := free.get()) is not None:
                count = 0
                while count < BLOCK_SIZE and (more := readinto(block[count:])):
                    count += more
                filled.put((block, count))
                if count < BLOCK_SIZE:
                    return
        except BaseException as error:  # noqa: BLE001 raised again in the reader
            filled.put(error)

    block, position, end = memoryview(b""), 0, 0
    finished = False

    def read(buffer: memoryview) -> int:
        nonlocal block, position, end, finished
        if position == end and not finished:
            if block:
                free.put(block)
            got = filled.get()
            if isinstance(got, BaseException):
                finished = True
                raise got
            block, end = got
            position = 0
            finished = end < BLOCK_SIZE
        count = min(len(buffer), end - position)
        buffer[:count] = block[position : position + count]
        position += count
        return count

    # A daemon: a signal may come before it is told to end, and Python waits for all others when it exits.
    thread = threading.Thread(target=fill, name="drkit-read-ahead", daemon=True)
    thread.start()
    try:
        yield read
    finally:
        free.put(None)
        thread.join()
