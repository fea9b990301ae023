"""Room for bytes that are on their way and not durable yet: the one bound of the record path."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading

PER_ITEM = 4096
"""What any item takes beside its own bytes (objects, a page of buffer): without it a million tiny items would pass for nothing."""


LEAST = 128 << 20
MOST = 256 << 20
"""An agent whose room is full stays below 400 MB with it."""

SHARE = 32


def fitting(memory: int | None = None) -> int:
    """Bytes of room for an agent on this machine: one in `SHARE` of its memory, within `LEAST` and `MOST`.

    A disk that falls silent for two seconds is nothing unusual, and a fast camera cannot wait: what has no room is lost.

    Args:
        memory: of the machine, in bytes; asked for where it is not given.
    """
    if memory is None:
        try:
            memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            memory = 0
    return min(max(memory // SHARE, LEAST), MOST)


class Room:
    """Bytes on their way; bounded. Threads ask with `try_enter`, coroutines wait in `enter`."""

    def __init__(self, limit: int) -> None:
        """``limit`` in bytes; one item larger than it passes when nothing else is on its way."""
        self.limit = limit
        self.used = 0
        self.kept = 0
        """Bytes of raw frames that are encoded, and wait for their turn or for the disk."""
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def full(self) -> float:
        """How much of it is taken, 0 to 1; more where one item is larger than all of it."""
        return self.used / self.limit

    def has(self, size: int) -> bool:
        """Whether `try_enter` would take ``size`` bytes now."""
        return not self.used or self.used + size <= self.limit

    def try_enter(self, size: int) -> bool:
        """Take ``size`` bytes, or say no."""
        with self._lock:
            if not self.has(size):
                return False
            self.used += size
            return True

    def force(self, size: int) -> None:
        """Take ``size`` bytes whether there is room or not (small things that must not wait)."""
        with self._lock:
            self.used += size

    async def enter(self, size: int) -> None:
        """Wait for ``size`` bytes."""
        while not self.try_enter(size):
            loop = asyncio.get_running_loop()
            waiter = loop.create_future()
            with self._lock:
                self._waiters.append((loop, waiter))
            if self.used == 0:
                self._wake()
            await waiter

    def try_keep(self, size: int) -> bool:
        """Count ``size`` bytes as kept, or say no."""
        with self._lock:
            if self.kept + size > self.limit // 2:
                return False
            self.kept += size
            return True

    def leave(self, size: int, kept: int = 0) -> None:
        """Give ``size`` bytes back, of which ``kept`` were kept."""
        with self._lock:
            self.used -= size
            self.kept -= kept
            waited = bool(self._waiters)
        if waited:
            self._wake()

    def _wake(self) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, []
        for loop, waiter in waiters:
            # A loop that was closed meanwhile has nobody who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, waiter)


class Charge:
    """What one frame holds of the room: its raw bytes, or what is stored of it, at last nothing. Owned by whoever works on the frame."""

    __slots__ = ("_room", "_shared", "_size")

    def __init__(self, room: Room, size: int) -> None:
        """``size`` bytes that `Room.try_enter` granted."""
        self._room, self._size, self._shared = room, size, False

    def keep(self) -> bool:
        """Whether all of it may be kept until it is durable: while what is kept so takes at most half of the room."""
        self._shared = self._room.try_keep(self._size)
        return self._shared

    def shrink(self, size: int) -> None:
        """Keep only ``size`` bytes, where that is less."""
        if size < self._size:
            self._room.leave(self._size - size)
            self._size = size

    def leave(self) -> None:
        """Give all of it back."""
        self._room.leave(self._size, kept=self._size if self._shared else 0)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
