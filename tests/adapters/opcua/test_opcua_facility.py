"""What a facility has: a laboratory device of the real nodesets, a link that is cut or stalled, alarms, a server of open62541. Slow: they install and wait."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.opcua import OpcUaConfig
from adapters.testing import Connected, Described, Disconnected, RecordingSink
from edge_agent.model import Cause, Valid
from tests.environments import environment

pytestmark = [pytest.mark.peers, pytest.mark.slow]

Make = Callable[..., OpcUaConfig]
O6_VERSION = "2.2.0"


async def test_a_laboratory_device_of_the_real_nodesets_is_recorded_by_its_name(
    node_server: Any, config: Make, recording: Callable[..., Any]
) -> None:
    server = node_server(lads=True)
    async with recording(config(server.endpoint, lads="Incubator", timeout="8 s"), "lab") as sink:
        await sink.until(lambda s: len(s.values("Chamber.Temperature.SensorValue")) and s.of(Described), timeout=60)
    assert sink.values("Chamber.Temperature.SensorValue").tolist() == [37.5]
    facts = {key: value for event in sink.of(Described) for key, value in event.facts.items()}
    assert facts["SerialNumber"] == "SN-77"


def assert_filled_from_history(sink: RecordingSink) -> None:
    """Every count is there, those of the outage are marked, and its gap says that nothing is missing."""
    values = sink.values("Total")
    assert set(np.diff(values)) == {1}
    marks = np.concatenate([block.valid for block in sink.blocks("Total") if block.valid is not None])
    assert np.count_nonzero(marks == Valid.HISTORY) > 5
    (gap,) = sink.gaps("Total")
    assert (gap.cause, gap.count) == (Cause.DISCONNECT, 0)


async def test_a_link_that_is_cut_for_seconds_loses_nothing_of_a_server_with_history(
    node_server: Any, config: Make, recording: Callable[..., Any], link: Callable[[str], Any]
) -> None:
    server = node_server(every=100, history=True)
    wire = await link(server.endpoint)
    counter = {"id": "nsu=urn:peer:node-opcua;s=Total", "name": "Total"}
    async with recording(config(wire.endpoint, nodes=[counter], timeout="2 s"), "lab") as sink:
        await sink.until(lambda s: len(s.values("Total")) > 10, timeout=40)
        await wire.cut()
        await sink.until(lambda s: len(s.of(Disconnected)) >= 3, timeout=40)
        await wire.mend()
        known = len(sink.values("Total"))
        await sink.until(lambda s: len(s.of(Connected)) == 2 and len(s.values("Total")) > known + 30, timeout=60)
    assert_filled_from_history(sink)


async def test_a_link_that_stalls_without_closing_is_left_and_the_hole_is_filled_from_history(
    node_server: Any, config: Make, recording: Callable[..., Any], link: Callable[[str], Any]
) -> None:
    """A switch that hangs, a cable pulled behind it: nobody says that the connection has ended."""
    server = node_server(every=100, history=True)
    wire = await link(server.endpoint)
    counter = {"id": "nsu=urn:peer:node-opcua;s=Total", "name": "Total"}
    async with recording(config(wire.endpoint, nodes=[counter], timeout="2 s"), "lab") as sink:
        await sink.until(lambda s: len(s.values("Total")) > 10, timeout=40)
        wire.stall()
        await sink.until(lambda s: len(s.of(Disconnected)) >= 2, timeout=60)
        known = len(sink.values("Total"))
        wire.resume()
        await sink.until(lambda s: len(s.of(Connected)) == 2 and len(s.values("Total")) > known + 30, timeout=60)
    assert_filled_from_history(sink)


async def test_an_alarm_that_is_active_already_is_known_from_the_start_and_marked_as_no_news(
    node_server: Any, config: Make, recording: Callable[..., Any]
) -> None:
    server = node_server(alarm="high")
    async with recording(config(server.endpoint, events=["i=2253"], timeout="4 s"), "lab") as sink:
        await sink.until(lambda s: any(b"LevelHigh" in text for text in s.values("events").tolist()), timeout=30)
    blocks = sink.blocks("events")
    marks = np.concatenate([block.valid for block in blocks if block.valid is not None])
    states = [json.loads(text) for block in blocks for text in block.values.tolist()]
    (known,) = [(state, mark) for state, mark in zip(states, marks, strict=True) if state.get("condition") == "LevelHigh"]
    assert (known[0]["active"], known[0]["retain"], known[1]) == (True, True, Valid.INITIAL)


async def test_an_alarm_is_recorded_with_its_states(node_server: Any, config: Make, recording: Callable[..., Any]) -> None:
    server = node_server(alarm=True)
    async with recording(config(server.endpoint, events=["i=2253"], timeout="4 s"), "lab") as sink:
        await sink.until(lambda s: sum(b"LevelHigh" in text for text in s.values("events").tolist()) > 3, timeout=30)
    events = [json.loads(text) for text in sink.values("events").tolist()]
    alarms = [event for event in events if event.get("condition") == "LevelHigh"]
    assert {event["active"] for event in alarms} == {True, False}
    assert {event["type"] for event in alarms} == {"ExclusiveLimitAlarmType"}
    assert {event["source"] for event in alarms} == {"1:Level"}
    assert any(event["acknowledged"] is False for event in alarms)


@pytest.fixture(scope="module")
def o6() -> Path:
    """The Python of an environment that has o6, made once under `.test-tools/`."""
    return environment("o6", f"o6=={O6_VERSION}") / "python"


@pytest.fixture
def open62541(o6: Path, port: int) -> Iterator[str]:
    """The endpoint of a server of open62541."""
    program = [str(o6), str(Path(__file__).parent / "o6_server.py"), str(port)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert any(line == "ready\n" for line in process.stdout), "open62541 did not start"
        yield f"opc.tcp://127.0.0.1:{port}"
        process.kill()


async def test_a_server_of_open62541_is_recorded_without_a_hole(open62541: str, config: Make, recording: Callable[..., Any]) -> None:
    nodes = [{"id": "ns=1;s=Counter", "counts_by": 1}, "ns=1;s=Spectrum", "ns=1;s=Note"]

    def enough(sink: RecordingSink) -> bool:
        return len(sink.values("Counter")) > 100 and len(sink.values("Spectrum")) > 0 and len(sink.values("Note")) > 0

    async with recording(config(open62541, nodes=nodes, queue=1000), "lab") as sink:
        await sink.until(enough, timeout=60)
    assert sink.values("Spectrum")[0].tolist() == list(range(1000))
    assert sink.values("Note").tolist() == [b"open62541"]
    counts = sink.values("Counter").astype(int)
    missing = int(np.sum(np.diff(counts) - 1))
    assert missing == sum(gap.count or 0 for gap in sink.gaps("Counter")), "what its sampling left out is declared, by number"
