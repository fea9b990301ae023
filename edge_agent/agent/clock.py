"""Keeps asking who keeps the clock, and tells people and the agent log when somebody set it.

Segments that are open say so by leaves of their own (`record.clock`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from edge_agent.errors import DiskError
from edge_agent.record.clock import ClockWatch, read_clocks
from edge_agent.record.timekeeping import Timekeeper
from edge_agent.seal.log_leaf import ClockStep

log = logging.getLogger(__name__)

LOOK = 1.0


async def watch_clock(
    keeper: Timekeeper, tell: Callable[[ClockStep], object], *, every: float = LOOK, watch: ClockWatch | None = None
) -> None:
    """For ever.

    Args:
        keeper: asked every ``every`` s, in a worker thread.
        tell: appends to the agent log, in a worker thread; a step that the disk refuses is told again.
        every: seconds.
        watch: what was seen of the clocks so far; default: begins now.
    """
    seen = watch or ClockWatch(lambda: read_clocks(keeper))
    untold: deque[ClockStep] = deque()
    while True:
        await asyncio.to_thread(keeper.refresh)
        _, item = seen.observe()
        if item is not None and item.step_ns is not None:
            log.warning("the clock was set by %+.3f s; what is recorded says so", item.step_ns / 1e9, extra={"code": "CLOCK_STEP"})
            untold.append(ClockStep(item.step_ns, item.t_utc_ns))
        if item is not None and item.sync is not None:
            log.info("the clock is kept by %s, %s", item.sync.source, "synchronised" if item.sync.synced else "not synchronised")
        await asyncio.to_thread(_tell, untold, tell)
        await asyncio.sleep(every)


def _tell(untold: deque[ClockStep], tell: Callable[[ClockStep], object]) -> None:
    while untold:
        try:
            tell(untold[0])
        except DiskError as error:
            log.warning("a step of the clock is not in the agent log yet: %s", error, extra={"code": error.code})
            return
        untold.popleft()
