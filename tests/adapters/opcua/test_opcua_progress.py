"""Where an outage begins: with the last message that was handed over, as of its sending, whatever the recorder and the clocks do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from adapters.opcua import OpcUaConfig
from adapters.opcua.progress import Progress
from edge_agent.model import NO_TIME
from firmware_sim.launch import Device
from firmware_sim.truth import read_truth

SLACK_NS = 300_000_000
"""A value may be stamped some time before the server samples it."""


async def test_what_had_come_before_the_cut_is_recorded_and_what_had_not_is_in_the_gap(
    furnace: Callable[..., Device], config: Callable[..., OpcUaConfig], recording: Callable[..., Any], link: Callable[[str], Any]
) -> None:
    device = furnace("--rate", "50")
    cable = await link(device.ready["endpoint"])
    async with recording(config(cable.endpoint, "Step", "Temperature")) as sink:
        await sink.until(lambda s: len(s.values("Step")))
        device.go()
        await sink.until(lambda s: len(s.values("Step")) > 10)
        sink.gate.clear()  # the recorder is behind: messages wait
        heard = len(cable.heard)
        while len(cable.heard) < heard + 10_000:
            await asyncio.sleep(0.05)
        await cable.cut()
        await asyncio.sleep(0.5)
        sink.gate.set()
        await cable.mend()
        await sink.until(lambda s: s.gaps("Step"), timeout=60)
        before = len(sink.values("Step"))
        await sink.until(lambda s: len(s.values("Step")) > before + 10)
    (gap,) = sink.gaps("Step")
    landed = {t for block in sink.blocks("Step") for t in block.t_source.tolist()}
    assert device.truth is not None
    missing = [item.t for item in read_truth(device.truth).of("Step") if item.t not in landed and item.t < max(landed)]
    assert missing
    assert [t for t in missing if not gap.t_from - SLACK_NS <= t <= gap.t_to] == []
    assert max(t for t in landed if t < missing[0]) < gap.t_from + SLACK_NS


@given(st.integers(-(10**12), 10**12), st.lists(st.tuples(*[st.integers(0, 10**9)] * 3, st.integers(-(10**10), 10**10)), min_size=1))
def test_it_is_never_after_the_arrival_nor_before_the_request(ahead: int, messages: list[tuple[int, int, int, int]]) -> None:
    progress = Progress(0)
    now = 10**15
    for waited, way, pause, step in messages:
        asked, sent, arrival = now, now + waited, now + waited + way
        ahead += step  # the server's clock is set
        progress.reached(asked, sent + ahead, arrival)
        assert asked <= progress.until <= arrival
        now = arrival + pause


@given(st.integers(-(10**12), 10**12), st.lists(st.tuples(*[st.integers(0, 10**9)] * 3), min_size=1))
def test_while_nobody_sets_a_clock_it_is_the_sending_but_for_the_shortest_way(ahead: int, messages: list[tuple[int, int, int]]) -> None:
    progress = Progress(0)
    now, shortest = 10**15, 10**9
    for waited, way, pause in messages:
        sent, shortest = now + waited, min(shortest, way)
        progress.reached(now, sent + ahead, sent + way)
        assert progress.until == sent + shortest
        now = sent + way + pause


def test_a_server_that_does_not_say_when_it_sent_is_believed_until_the_arrival() -> None:
    progress = Progress(7)
    assert progress.until == 7
    progress.reached(10, NO_TIME, 20)
    assert progress.until == 20
