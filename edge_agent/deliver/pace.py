"""How fast a target may be filled, and at which hours."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from datetime import time as clock_time
from datetime import tzinfo as zone_info

BURST = 1.0
"""Seconds' worth of bytes that may go at once after a silence."""


class Pace:
    """At most so many bytes a second, all items of a target together. Thread-safe."""

    def __init__(self, rate: float | None = None, now: Callable[[], float] = time.monotonic) -> None:
        """``rate`` in bytes per second; None: no limit."""
        self._rate = rate
        self._now = now
        self._free = now()
        """When everything that was granted so far has gone at that rate."""
        self._lock = threading.Lock()

    def delay(self, size: int) -> float:
        """Seconds to wait before ``size`` bytes go; they count as gone."""
        if self._rate is None:
            return 0.0
        with self._lock:
            now = self._now()
            begins = max(self._free, now - BURST)
            self._free = begins + size / self._rate
            return max(0.0, begins - now)


UNLIMITED = Pace()


@dataclass(frozen=True, slots=True)
class Hours:
    """Hours of the day at which items are sent, in the facility's time; over midnight where ``end`` is before ``begin``."""

    begin: clock_time
    end: clock_time
    zone: zone_info

    def wait(self, now: datetime) -> float:
        """Seconds until they begin; 0 while they last.

        Args:
            now: with a time zone.
        """
        local = now.astimezone(self.zone)
        at = local.time()
        inside = self.begin <= at < self.end if self.begin < self.end else not self.end <= at < self.begin
        if inside:
            return 0.0
        day = local.date() if at < self.begin else local.date() + timedelta(days=1)
        return max(1.0, (datetime.combine(day, self.begin, self.zone) - local).total_seconds())
