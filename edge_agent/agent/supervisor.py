"""Keeps every adapter and every part of the daemon running: what fails begins again after a pause and never stops anything else."""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections.abc import Awaitable, Callable

from edge_agent.adapter import Adapter, Sink
from edge_agent.agent.sink import InstrumentState
from edge_agent.errors import EdgeAgentError

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0


async def supervise(make: Callable[[], Adapter], sink: Sink, state: InstrumentState) -> None:
    """Run an adapter for ever; returns only when cancelled.

    Args:
        make: builds a fresh adapter for each attempt.
        sink: what it writes to.
        state: where its last error is shown.
    """
    pause = FIRST_PAUSE
    while True:
        began = asyncio.get_running_loop().time()
        try:
            await make().run(sink)
            state.error = "the adapter ended by itself"
        except EdgeAgentError as error:
            state.error = str(error)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            # Something inside the adapter was cancelled, not the adapter: that is its failure.
            state.error = "the adapter ended: something that it waited for was cancelled"
        except Exception as error:
            # An adapter's bug must not stop the other instruments; it is shown and the adapter begins again.
            state.error = f"{type(error).__name__}: {error}"
            log.exception("%s: the adapter failed", state.name, extra={"code": "ADAPTER"})
        pause = await _rest(began, pause, f"{state.name}: begins again", state.error, "ADAPTER")


async def keep_going(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run a part of the daemon for ever; returns only when cancelled.

    Args:
        name: for the log.
        work: runs for ever itself; when it fails (the disk is full, the database refuses) it begins again.
    """
    pause = FIRST_PAUSE
    while True:
        began = asyncio.get_running_loop().time()
        try:
            await work()
            why = "it ended by itself"
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            why = "something that it waited for was cancelled"
        except sqlite3.Error as error:
            why = f"the spool's database was refused by the disk or by SQLite ({error}); if it lasts, look at the kernel log"
        except (EdgeAgentError, OSError) as error:
            why = str(error)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            log.exception("%s failed", name, extra={"code": "AGENT_PART"})
        pause = await _rest(began, pause, f"{name} goes on", why, "AGENT_PART")


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _rest(began: float, pause: float, what: str, why: str, code: str) -> float:
    """Wait before the next attempt; the pause of the one after it. What ran for long begins again soon."""
    loop = asyncio.get_running_loop()
    pause = FIRST_PAUSE if loop.time() - began > 2 * LONGEST_PAUSE else pause
    log.warning("%s in %.1f s: %s", what, pause, why, extra={"code": code})
    await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
    return min(2 * pause, LONGEST_PAUSE)
