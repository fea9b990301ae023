"""What the agent log is told of the agent itself: each start, another version, another configuration."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from edge_agent.config.models import Config
from edge_agent.record.agent_log import AgentLog
from edge_agent.record.session import Session
from edge_agent.seal.leaf import Boot
from edge_agent.seal.log_leaf import ConfigChange, Update


def config_digest(config: Config) -> bytes:
    """SHA-256 of the whole configuration as JSON, which holds no secret: they are named there by where they are."""
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
