"""What the agent log is told of the agent itself: each start, another version, another configuration, steps of the clock."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable

from edge_agent.config.models import Config
from edge_agent.record.agent_log import AgentLog
from edge_agent.record.clock import ClockWatch
from edge_agent.record.session import Session
from edge_agent.seal.leaf import Boot
from edge_agent.seal.log_leaf import ClockStep, ConfigChange, Update

CLOCK_LOOK = 1.0


async def log_clock_steps(agent_log: AgentLog, watch: ClockWatch, every: float = CLOCK_LOOK) -> None:
    """CLOCK_STEP whenever the wall clock was set; segments that are open say so by leaves of their own. For ever."""
    while True:
        await asyncio.sleep(every)
        reading, declared = watch.observe()
        if declared is not None and declared.step_ns is not None:
            await asyncio.to_thread(agent_log.append, ClockStep(declared.step_ns, reading.t_utc_ns))


def config_digest(config: Config) -> bytes:
    """SHA-256 of the whole configuration as JSON; secrets are masked, so the digest gives no way to guess them."""
    return hashlib.sha256(config.model_dump_json().encode()).digest()


def begin(agent_log: AgentLog, session: Session, version: str, config: Config, now_ns: Callable[[], int] = time.time_ns) -> None:
    """BOOT, and what is not as it was at the last start.

    Raises:
        DiskError: the disk refused.
    """
    before = agent_log.last(Boot)
    agent_log.append(Boot(session.agent_id, session.boot_id, version, now_ns()))
    if before is not None and before.version != version:
        agent_log.append(Update(before.version, version, now_ns()))
    digest, known = config_digest(config), agent_log.last(ConfigChange)
    if known is None or known.digest != digest:
        agent_log.append(ConfigChange(digest, now_ns()))
