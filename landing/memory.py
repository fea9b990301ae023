"""The C library's memory, tuned to a service that takes megabytes at a time."""

from __future__ import annotations

import contextlib
import ctypes

# glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_LARGEST = 4 << 20
"""Bytes that are still taken from what was freed: a message of MQTT, and what it grows to while it is received."""
_KEPT = 64 << 20


def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MiB that were freed, where each message cost a thousand page faults: most of what receiving it costs."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _KEPT)
