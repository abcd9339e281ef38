"""How the C library treats freed memory while chunks pass through by the megabyte."""

from __future__ import annotations

import ctypes
from functools import cache

# malloc.h of glibc
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


@cache
def keep_freed_memory() -> None:
    """Have freed chunks reused instead of given back to the kernel and faulted in again, page by page.

    Measured on a backup of 2 GB: 370,000 page faults become 45,000, a second of CPU less; one arena keeps the peak
    lower than the default of one a thread. To be called before threads allocate. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 64 * 1024 * 1024)
        mallopt(_M_TRIM_THRESHOLD, 128 * 1024 * 1024)
