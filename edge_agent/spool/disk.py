"""How full the disk is, in four words, and how long it will last.

``ok``; ``soft``: free what may be freed, warn; ``hard``: refuse frames (sources that cannot wait), go on with rows;
``paused``: record nothing, declare gaps. The state is a pure function of the headroom: bytes until the first bound
(``keep_free`` of the disk, ``max_size`` of the spool). Going back needs 10 % more than going forth, so that it does
not flutter. A ballast file keeps room to close segments and commit when the disk is full.
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from edge_agent.errors import ConfigError
from edge_agent.storage import DISK, Storage, durable

MIB = 1 << 20
RATE_TAU = 60.0
"""Seconds after which an old rate counts for 1/e."""
COUNT_SHARE = 50
"""The files of the spool are counted for at most one part in so many of the time."""


class DiskState(StrEnum):
    """Ordered from good to bad."""

    OK = "ok"
    SOFT = "soft"
    HARD = "hard"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Space:
    """Of the file system: total bytes, and bytes that this user may still write."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """Bounds in bytes. ``soft`` and ``hard`` are headrooms below which the state changes; ``reserve`` is the size of the ballast file."""

    keep_free: int
    max_size: int | None
    soft: int
    hard: int
    reserve: int

    @classmethod
    def for_disk(cls, total: int, keep_free: int, max_size: int | None = None) -> DiskLimits:
        """Limits for a disk of ``total`` bytes: soft at 15 %, hard at 5 % of what the spool may use, at most 16 GiB and 4 GiB.

        Raises:
            ConfigError: nothing is left for the spool.
        """
        budget = min(total - keep_free, total if max_size is None else max_size)
        if budget <= 0:
            raise ConfigError(
                "spool.keep_free leaves nothing for the spool.",
                why=f"the disk has {size_text(total)}, keep_free is {size_text(keep_free)}"
                + ("" if max_size is None else f", max_size is {size_text(max_size)}"),
                try_="make keep_free smaller, or put spool.dir on a larger disk",
                code="CFG_SPOOL_SPACE",
            )
        return cls(keep_free, max_size, min(budget * 15 // 100, 16 << 30), min(budget * 5 // 100, 4 << 30), min(budget // 100, 64 * MIB))


@dataclass(frozen=True, slots=True)
class DiskReport:
    """One reading, in bytes. ``rate`` is how fast the headroom shrinks (bytes per second).

    ``seconds_left`` is the time until paused; None: it is not filling.
    """

    state: DiskState
    free: int
    used: int
    headroom: int
    rate: float
    seconds_left: float | None


def disk_state(headroom: int, limits: DiskLimits, before: DiskState = DiskState.OK) -> DiskState:
    """The state for a headroom (bytes, may be negative), given the state before."""
    order = list(DiskState)
    bounds = {DiskState.SOFT: limits.soft, DiskState.HARD: limits.hard, DiskState.PAUSED: 0}
    margin = max(limits.hard // 10, 1)
    state = DiskState.OK
    for worse, bound in bounds.items():
        sticky = order.index(before) >= order.index(worse)
        if headroom <= bound + (max(bound // 10, margin) if sticky else 0):
            state = worse
    return state


class DiskGuard:
    """Reads the disk and keeps the ballast. `poll` may be called from any one thread at a time; `watch` polls for ever."""

    def __init__(
        self,
        folder: Path,
        limits: DiskLimits,
        *,
        space: Callable[[Path], Space] | None = None,
        used: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        storage: Storage = DISK,
    ) -> None:
        """Guard the spool in ``folder``.

        Args:
            folder: on the disk in question.
            limits: bounds.
            space: reads the file system; default `shutil.disk_usage`.
            used: bytes that the spool occupies; asked only when there is a ``max_size``; default: counts its files.
            clock: seconds, monotonic.
            storage: for the ballast file.
        """
        self._folder = folder
        self._limits = limits
        self._space = space or _disk_space
        self._used = used or (lambda: tree_usage(folder))
        self._clock = clock
        self._storage = storage
        self._ballast = folder / "ballast"
        self._last: tuple[float, int] | None = None
        self._rate = 0.0
        self._counted = (0, 0)
        self._count_at = float("-inf")
        self.state = DiskState.OK

    def poll(self) -> DiskReport:
        """Read, update the state and the rate, and keep the ballast in step: there while ok or soft, given up when paused."""
        free = self._space(self._folder).free
        used = self._usage(free) if self._limits.max_size is not None else 0
        headroom = free - self._limits.keep_free
        if self._limits.max_size is not None:
            headroom = min(headroom, self._limits.max_size - used)
        now = self._clock()
        if self._last is not None and now > self._last[0]:
            seconds = now - self._last[0]
            weight = 1 - math.exp(-seconds / RATE_TAU)
            self._rate += weight * ((self._last[1] - headroom) / seconds - self._rate)
        self._last = (now, headroom)
        self.state = disk_state(headroom, self._limits, self.state)
        if self.state is DiskState.PAUSED:
            self.drop_ballast()
        elif self.state in (DiskState.OK, DiskState.SOFT):
            self._keep_ballast(headroom)
        left = max(headroom, 0) / self._rate if self._rate >= 1 else None
        return DiskReport(self.state, free, used, headroom, self._rate, left)

    def _usage(self, free: int) -> int:
        """Bytes that the spool occupies. Counting 100 000 files takes seconds; in between, what the disk lost is taken for the spool's."""
        now = self._clock()
        if now >= self._count_at:
            used = self._used()
            self._counted = (used, free)
            self._count_at = now + COUNT_SHARE * (self._clock() - now)
        used, free_then = self._counted
        return max(0, used + free_then - free)

    def drop_ballast(self) -> bool:
        """Give the reserve free now (ENOSPC was met): room to close what is open. Whether there was one."""
        there = self._ballast.exists()
        durable.remove(self._storage, self._ballast)
        return there

    async def watch(self, seen: Callable[[DiskReport], None], every: float = 1.0) -> None:
        """Poll every so many seconds for ever, in a thread; ``seen`` gets each report on the loop."""
        while True:
            seen(await asyncio.to_thread(self.poll))
            await asyncio.sleep(every)

    def _keep_ballast(self, headroom: int) -> None:
        size = self._limits.reserve
        if size == 0 or headroom <= self._limits.hard + size:
            return
        if not self._ballast.exists() or self._ballast.stat().st_size != size:
            durable.allocate(self._storage, self._ballast, size)


def tree_usage(folder: Path) -> int:
    """Bytes that the files below a folder occupy on the disk (preallocated ones fully)."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                stat = os.lstat(os.path.join(root, name))
            except FileNotFoundError:
                continue
            total += getattr(stat, "st_blocks", -(-stat.st_size // 512)) * 512
    return total


def size_text(n: int) -> str:
    """Bytes for people: ``512 B``, ``20.0 GB`` (powers of 1000, as disks are sold)."""
    value = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _disk_space(folder: Path) -> Space:
    usage = shutil.disk_usage(folder)
    return Space(usage.total, usage.free)
