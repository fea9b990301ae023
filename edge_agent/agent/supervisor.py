"""Keeps every adapter running: one that fails is started again with growing pauses and never stops another."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

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
        except Exception as error:
            # An adapter's bug must not stop the other instruments; it is shown and the adapter begins again.
            state.error = f"{type(error).__name__}: {error}"
            log.exception("%s: the adapter failed", state.name, extra={"code": "ADAPTER"})
        log.warning("%s: begins again in %.1f s: %s", state.name, pause, state.error, extra={"code": "ADAPTER"})
        await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
        lasted = asyncio.get_running_loop().time() - began
        pause = FIRST_PAUSE if lasted > 2 * LONGEST_PAUSE else min(2 * pause, LONGEST_PAUSE)
