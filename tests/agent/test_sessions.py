"""Session keys that are changed each day, and what the agent log is told of the agent itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from edge_agent.agent import diary
from edge_agent.agent.agent import Agent
from edge_agent.agent.clock import watch_clock
from edge_agent.config import load
from edge_agent.record.clock import ClockWatch, Reading
from edge_agent.record.journal import LeafFrame, entries
from edge_agent.seal.leaf import Boot, parse
from edge_agent.seal.log_leaf import ClockStep, ConfigChange, KeyAdd, KeyRetire, Update


def written(spool: Path, kind: Any) -> list[Any]:
    """The leaves of some kinds in the agent log, in order."""
    data = (spool / "agent.log").read_bytes()
    leaves = (parse(entry.payload) for entry, _ in entries(data) if isinstance(entry, LeafFrame))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def config(tmp_path: Path, more: str = "") -> Any:
    path = tmp_path / "edge-agent.toml"
    path.write_text(f'site = "BL05"\nspool = {{ dir = "{tmp_path / "spool"}" }}\n{more}')
    return load(path)


async def test_keys_are_changed_after_a_day_and_the_old_ones_retired(tmp_path: Path) -> None:
    agent = Agent(config(tmp_path))
    await agent.start()
    try:
        old, sessions = agent.keeper.session, agent.sessions
        await asyncio.to_thread(sessions.look)
        assert agent.keeper.session is old
        sessions.clock = lambda: sessions._since + sessions.lifetime_ns
        await asyncio.to_thread(sessions.change)
        sessions.clock = lambda: sessions._since + sessions.lifetime_ns
        await asyncio.to_thread(sessions.look)
    finally:
        await agent.stop()
    added, retired = written(tmp_path / "spool", KeyAdd), written(tmp_path / "spool", KeyRetire)
    assert [leaf.kids for leaf in retired] == [leaf.kids for leaf in added[:2]]
    assert added[2].kids == agent.keeper.session.kids
    record, first = agent.keeper.session.record, old.record
    assert (record.boot_id, record.agent_id) == (first.boot_id, first.agent_id)
    assert record.t_to - record.t_from == first.t_to - first.t_from == 24 * 3600 * 10**9


async def test_a_start_tells_what_is_not_as_it_was(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    for more, version in (("", "1"), ("", "1"), ('access = "open"\n', "1"), ('access = "open"\n', "2")):
        agent = Agent(config(tmp_path, more))
        await agent.start()
        await agent.stop()
        log = agent.agent_log
        assert log.last(Boot) is not None
        if version == "2":
            from edge_agent.record.agent_log import AgentLog

            opened = AgentLog(spool / "agent.log", agent.keeper.session, agent.storage)
            diary.begin(opened, agent.keeper.session, version, agent.config)
            opened.close()
    kinds = [type(leaf) for leaf in written(spool, Boot | ConfigChange | Update)]
    assert kinds == [Boot, ConfigChange, Boot, Boot, ConfigChange, Boot, Boot, Update]
    (update,) = written(spool, Update)
    assert update.now == "2"
    changes = written(spool, ConfigChange)
    assert changes[1].digest == diary.config_digest(config(tmp_path, 'access = "open"\n')) != changes[0].digest


async def test_a_clock_that_is_set_is_in_the_log(tmp_path: Path) -> None:
    agent = Agent(config(tmp_path))
    await agent.start()
    now = Reading(10**18, 10**9)
    watch = ClockWatch(lambda: now)
    task = asyncio.create_task(watch_clock(agent.timekeeper, agent.agent_log.append, every=0.01, watch=watch))
    now = Reading(10**18 - 3600 * 10**9, 10**9 + 1000)
    async with asyncio.timeout(20):
        while not written(tmp_path / "spool", ClockStep):
            await asyncio.sleep(0.01)
    task.cancel()
    await agent.stop()
    (step, *more) = written(tmp_path / "spool", ClockStep)
    assert (step.step_ns, step.t_ns, more) == (-3600 * 10**9 - 1000, 10**18 - 3600 * 10**9, [])
