"""A bounded pool of page-aligned buffers that are used again and again.

Memory of all leases and idle buffers together never exceeds the limit: a caller that wants more waits, which is the
back-pressure of the record path. Buffers that come back are lent again with their pages in place, but for what is more than
`IDLE` bytes: a disk that was slow once does not hold memory for ever. Sizes are rounded up to classes, so that chunks of similar
size share buffers; pages that nobody touched cost nothing.
"""

from __future__ import annotations

import mmap
import threading
import time
from functools import lru_cache
from types import TracebackType

import numpy as np

from edge_agent.codec.contract import Octets
from edge_agent.errors import EdgeAgentError

IDLE = 128 << 20
"""Bytes that idle buffers of one pool keep."""


class BuffersExhausted(EdgeAgentError):
    """No buffer came back in time: the stages behind the encoder are too slow or stuck."""

    default_code = "BUFFERS"


class Lease:
    """One buffer, on loan until `release()`; also a context manager."""

    __slots__ = ("_memory", "_pool", "view")

    def __init__(self, pool: Buffers, memory: Octets, nbytes: int) -> None:
        """Made by `Buffers.take`."""
        self._pool = pool
        self._memory: Octets | None = memory
        self.view = memory.data[:nbytes]
        """The writable bytes, page-aligned, exactly as many as asked for; contents are left from earlier use."""

    def release(self) -> None:
        """Give the buffer back; its contents may change at once.

        Raises:
            RuntimeError: it was given back before.
        """
        memory, self._memory = self._memory, None
        if memory is None:
            raise RuntimeError("this buffer was already given back: each lease is released once")
        self.view = memoryview(b"")
        self._pool._give(memory)  # noqa: SLF001 - the two classes are one concept

    def shrunk(self, nbytes: int) -> Lease | None:
        """Move the first `nbytes` to a buffer that fits and give this one back.

        Returns:
            The other lease; None, and this one stays, where that spares less than three quarters or no buffer is free.
        """
        if self._memory is None or 4 * rounded(nbytes) > self._memory.nbytes:
            return None
        try:
            other = self._pool.take(nbytes, 0)
        except BuffersExhausted:
            return None
        other.view[:] = self.view[:nbytes]
        self.release()
        return other

    def __enter__(self) -> Lease:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give the buffer back."""
        self.release()


class Buffers:
    """A pool of at most `limit` bytes, for any number of threads."""

    def __init__(self, limit: int) -> None:
        """Start empty; memory is taken from the system as it is asked for."""
        self.limit = limit
        self._idle: dict[int, list[Octets]] = {}
        self._held = 0
        self._spare = 0
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0

    @property
    def held(self) -> int:
        """Bytes taken from the system now, on loan or idle."""
        return self._held

    def take(self, nbytes: int, timeout: float | None = None) -> Lease:
        """Lend a buffer of `nbytes`, waiting for one to come back when the limit is reached.

        Args:
            nbytes: the size wanted, at least 1.
            timeout: seconds to wait; None waits for ever, 0 not at all.

        Raises:
            BuffersExhausted: the time passed.
            ValueError: `nbytes` can never fit in the limit.
        """
        size = rounded(nbytes)
        if size > self.limit:
            raise ValueError(f"a buffer of {nbytes} bytes needs {size} and the limit is {self.limit}: raise the limit")
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while (memory := self._reuse_or_grow(size)) is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise BuffersExhausted(
                        f"No buffer of {size} bytes came free in {timeout:g} s.",
                        why=f"{self._held} of {self.limit} bytes are in use, so the disk or the writer is too slow",
                        try_="raise the limit or lower the rate",
                    )
                self._waiting += 1
                try:
                    self._changed.wait(left)
                finally:
                    self._waiting -= 1
        return Lease(self, memory, nbytes)

    def _reuse_or_grow(self, size: int) -> Octets | None:
        """Return an idle or a new buffer, dropping idle ones of other sizes if that makes room."""
        if same := self._idle.get(size):
            self._spare -= size
            return same.pop()
        for others in self._idle.values():
            while others and self._held + size > self.limit:
                dropped = others.pop().nbytes
                self._held -= dropped
                self._spare -= dropped
        if self._held + size > self.limit:
            return None
        self._held += size
        return aligned(size)

    def _give(self, memory: Octets) -> None:
        with self._lock:
            if self._spare and self._spare + memory.nbytes > IDLE:
                self._held -= memory.nbytes
            else:
                self._spare += memory.nbytes
                self._idle.setdefault(memory.nbytes, []).append(memory)
            if self._waiting:
                self._changed.notify_all()


@lru_cache(64)
def rounded(nbytes: int) -> int:
    """Return the size class of `nbytes`: whole pages, in eighths of a power of two, so at most an eighth is given away."""
    if nbytes < 1:
        raise ValueError(f"a buffer of {nbytes} bytes makes no sense: ask for at least 1")
    step = max(mmap.PAGESIZE, (1 << (nbytes - 1).bit_length()) // 16)
    return -(-nbytes // step) * step


def aligned(size: int) -> Octets:
    """Return `size` fresh bytes that begin on a page."""
    memory = np.empty(size + mmap.PAGESIZE, np.uint8)
    start = -memory.ctypes.data % mmap.PAGESIZE
    return memory[start : start + size]
