"""Gives up what a person names: an entry of quarantine, or all that waits for a target that is not configured any more.

The agent log says so before a byte goes: once for an entry, once a run for a target. What another target has or awaits stays for that one.
"""

from __future__ import annotations

import time

from edge_agent.config.models import Config
from edge_agent.errors import UsageError
from edge_agent.record.agent_log import AgentLog
from edge_agent.seal.log_leaf import Loss
from edge_agent.spool import Spool
from edge_agent.spool.quarantine import GivenUp, Quarantined, want_reason


def give_up(config: Config, spool: Spool, agent_log: AgentLog, name: str, reason: str) -> Quarantined | GivenUp:
    """Drop an entry of quarantine, or what waits for a target (worker thread).

    Raises:
        UsageError: no reason; a target that is configured; neither such an entry nor such a target.
    """
    want_reason(name, reason)
    if name in config.targets:
        raise UsageError(
            f"Target {name} is configured.", why="what waits for it is still to be sent", code="TARGET_CONFIGURED",
            try_=f"take [target.{name}] out of the configuration first, or drop single entries: edge-agent quarantine list",
        )  # fmt: skip
    runs = spool.outbox.runs_waiting_for(name)
    if runs:
        for run_id in runs:
            agent_log.append(Loss(name, run_id, reason, time.time_ns()))
        return spool.quarantine.drop_target(name, reason)
    try:
        entry = spool.quarantine.show(name)
    except UsageError as error:
        why = f"{error.why}; nothing waits for a target of that name either"
        raise UsageError(error.what, why=why, try_=error.try_) from error
    agent_log.append(Loss(entry.id, None if entry.item is None else entry.item.run_id, reason, time.time_ns()))
    return spool.quarantine.drop(name, reason)
