"""What the daemon says when somebody sets its clock, or somebody else keeps it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from edge_agent.agent.clock import watch_clock
from edge_agent.errors import DiskError
from edge_agent.record.clock import ClockWatch, Reading
from edge_agent.record.timekeeping import Timekeeper
from edge_agent.seal.clock import Clock
from edge_agent.seal.log_leaf import ClockStep

S, YEARS = 10**9, 315_360_000


async def test_a_step_is_told_once_to_people_and_to_the_log_also_when_the_disk_refuses_first(caplog: pytest.LogCaptureFixture) -> None:
    asked, told = [0], asyncio.Event()
    loop, steps = asyncio.get_running_loop(), list[ClockStep]()

    def kernel() -> Clock:
        asked[0] += 1
        return Clock("chrony", 0, 0, True)

    def read() -> Reading:
        return Reading(YEARS * S - YEARS * S * (asked[0] > 1), 100 * S, 0, keeper())

    def tell(step: ClockStep) -> None:
        if not steps and asked[0] < 4:
            raise DiskError("the disk is full")
        steps.append(step)
        loop.call_soon_threadsafe(told.set)

    keeper = Timekeeper(kernel, ())
    with caplog.at_level(logging.INFO):
        task = asyncio.create_task(watch_clock(keeper, tell, every=0.0, watch=ClockWatch(read)))
        await asyncio.wait_for(told.wait(), 20)
        after = asked[0]
        while asked[0] < after + 3:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert steps == [ClockStep(-YEARS * S, 0)]
    said = [record.message for record in caplog.records if record.name == "edge_agent.agent.clock"]
    assert said[:2] == ["the clock is kept by chrony, synchronised", "the clock was set by -315360000.000 s; what is recorded says so"]
    assert [line.partition(":")[0] for line in said[2:]] == ["a step of the clock is not in the agent log yet"] * 2
