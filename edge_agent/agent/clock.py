"""Keeps asking who keeps the clock, and tells when somebody set it. Signed data say so by themselves (`record.clock`)."""

from __future__ import annotations

import asyncio
import logging

from edge_agent.record.clock import ClockWatch, read_clocks
from edge_agent.record.timekeeping import Timekeeper

log = logging.getLogger(__name__)

LOOK = 5.0


async def watch_clock(keeper: Timekeeper, *, every: float = LOOK, watch: ClockWatch | None = None) -> None:
    """For ever.

    Args:
        keeper: asked every ``every`` s, in a worker thread.
        every: seconds.
        watch: what was seen of the clocks so far; default: begins now.
    """
    seen = watch or ClockWatch(lambda: read_clocks(keeper))
    while True:
        await asyncio.to_thread(keeper.refresh)
        _, item = seen.observe()
        if item is not None and item.step_ns is not None:
            log.warning("the clock was set by %+.3f s; what is recorded says so", item.step_ns / 1e9, extra={"code": "CLOCK_STEP"})
        if item is not None and item.sync is not None:
            log.info("the clock is kept by %s, %s", item.sync.source, "synchronised" if item.sync.synced else "not synchronised")
        await asyncio.sleep(every)
