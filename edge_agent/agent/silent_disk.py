"""Tells of a disk that neither answers nor fails: a sync of the spool that does not come back (a dying drive, a lost network volume).

No program can do anything about it but say so: what is offered meanwhile fills the room, then sources wait or frames are declared missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

SILENT_AFTER = 10.0
"""Seconds of one sync: the slowest disks that still work need less."""
LOOK = 1.0


def silent(waits: float) -> float:
    """Seconds for which the disk does not answer; 0 while it may still be slow."""
    return waits if waits > SILENT_AFTER else 0.0


async def watch_syncs(waits: Callable[[], float]) -> None:
    """Log once when a sync takes too long, and once when it came back.

    Args:
        waits: seconds for which the sync in progress is under way, 0 when there is none.
    """
    longest = 0.0
    while True:
        await asyncio.sleep(LOOK)
        now = silent(waits())
        if now and not longest:
            log.error("%s", _silence(now), extra={"code": "DISK_SILENT"})
        elif longest and not now:
            log.warning("the disk of the spool answers again, after more than %.0f s", longest, extra={"code": "DISK_SILENT"})
        longest = now


def _silence(seconds: float) -> str:
    return (
        f"the disk of the spool does not answer: a sync is under way for {seconds:.0f} s\n"
        "  why: nothing new becomes durable; when the memory for it is full, sources wait or frames are declared missing\n"
        "  try: look at the kernel log (dmesg) and at the drive, its cable or the network volume; the agent goes on by itself"
    )
