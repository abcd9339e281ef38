"""Asking a helper's tar for members: the list goes in while the stream comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from drkit.engine.helper.process import HelperProcess
from drkit.engine.helper.reading import Reading
from drkit.pipeline.paths import listed_name
from drkit.pipeline.readahead import read_ahead
from drkit.pipeline.stream import ReadInto

_WRITE_SIZE = 256 * 1024


@contextmanager
def requested(process: HelperProcess, paths: Iterable[bytes], reading: Reading) -> Iterator[ReadInto]:
    """Ask for `paths`, and yield a `readinto` over the tar. On leaving, the whole list has been sent.

    A thread of its own sends the list: tar reads it bit by bit, and stops reading it while nobody reads its output.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="drkit-list") as executor:
        sent = executor.submit(_send, process, paths, reading)
        with read_ahead(process.readinto) as readinto:
            try:
                yield readinto
            except BaseException:
                process.abort()  # wakes both threads, which are waited for
                raise
        sent.result()


def _send(process: HelperProcess, paths: Iterable[bytes], reading: Reading) -> None:
    listing = bytearray(reading.encode() + b"\n")
    for path in paths:
        listing += listed_name(path) + b"\0"
        if len(listing) >= _WRITE_SIZE:
            process.write(bytes(listing))
            listing.clear()
    process.write(bytes(listing))
    process.close_stdin()
