"""The C library's memory, tuned to messages of megabytes."""

from __future__ import annotations

import contextlib
import ctypes

# glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_LARGEST = 32 << 20
"""Bytes that are still taken from what was freed: the most that glibc takes, and what it finds by itself where frames are that large."""
_KEPT = 64 << 20


def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MiB that were freed; callable twice.

    paho copies a message several times, on either side, and each copy of 1 MB into memory that is new costs 250 page faults.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _KEPT)
