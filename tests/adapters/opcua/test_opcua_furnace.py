"""The adapter against the simulated furnace: every value that was sent arrives, with its own time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from adapters.opcua import OpcUaAdapter, OpcUaConfig
from adapters.testing import Connected, Described, Disconnected, Opened, RecordingSink
from edge_agent.errors import ConfigError, InstrumentUnreachable
from edge_agent.model import Kind, Valid
from firmware_sim.launch import Device
from firmware_sim.truth import read_truth

NAMESPACE = "urn:firmware-sim:furnace"
ALL = ("Temperature", "Setpoint", "HeaterPower", "Stable", "Program", "Step")

Start = Callable[..., Device]
Make = Callable[..., OpcUaConfig]


def rows(sink: RecordingSink, name: str) -> list[tuple[Any, int, int]]:
    """(value, source time, valid) of each row."""
    found: list[tuple[Any, int, int]] = []
    for block in sink.blocks(name):
        assert block.valid is not None
        found += list(zip(block.values.tolist(), block.t_source.tolist(), block.valid.tolist(), strict=True))
    return found


def counts(sink: RecordingSink, sent: dict[str, int]) -> bool:
    return all(len(sink.values(name)) == count + 1 for name, count in sent.items())


async def test_every_value_arrives_with_its_source_time(furnace: Start, config: Make, recording: Callable[..., Any]) -> None:
    device = furnace("--rate", "50")
    async with recording(config(device.ready["endpoint"], *ALL)) as sink:
        await sink.until(lambda s: len({e.stream.name for e in s.of(Opened)}) == len(ALL))
        device.go()
        await sink.until(lambda s: len(s.values("Step")) > 60, timeout=20)
        sent = device.stop()
        await sink.until(lambda s: counts(s, sent))
    assert device.truth is not None
    truth = read_truth(device.truth)
    for name in ALL:
        initial = [(item.v, item.t, Valid.INITIAL) for item in truth.initial if item.stream == name]
        items = [(item.v, item.t, Valid.GOOD) for item in truth.items if item.stream == name]
        got = [(value.decode() if isinstance(value, bytes) else value, t, valid) for value, t, valid in rows(sink, name)]
        assert got == initial + items
    assert not any(sink.gaps(name) for name in ALL)


async def test_streams_carry_unit_limits_and_what_the_server_granted(
    idle_furnace: Device, config: Make, recording: Callable[..., Any]
) -> None:
    endpoint = idle_furnace.ready["endpoint"]
    async with recording(config(endpoint, "Temperature", "Program", sampling="20 ms", queue=7)) as sink:
        await sink.until(lambda s: len(s.of(Opened)) == 2)
    temperature = next(event.stream for event in sink.of(Opened) if event.stream.name == "Temperature")
    assert (temperature.kind, temperature.dtype, temperature.shape, temperature.unit) == (Kind.ROWS, "<f8", (), "°C")
    assert temperature.source_uri == f"{endpoint}#nsu={NAMESPACE};s=Temperature"
    assert temperature.source_type == "opcua Double"
    assert temperature.attributes["range_high"] == 1200.0
    assert temperature.attributes["server_queue"] == 7
    assert temperature.attributes["sampling_ms"] >= 20
    assert not temperature.counted
    facts = {key: value for event in sink.of(Described) for key, value in event.facts.items()}
    assert facts["manufacturer"] == "FreeOpcUa"
    assert abs(facts["clock_ahead_s"]) < 5


async def test_a_server_that_samples_slower_than_asked_is_reported_once(
    idle_furnace: Device, config: Make, recording: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with recording(config(idle_furnace.ready["endpoint"], "Temperature", sampling="1 ms")) as sink:
            await sink.until(lambda s: s.of(Opened))
    warnings = [record.getMessage() for record in caplog.records if "asked for a look every 1 ms" in record.getMessage()]
    assert len(warnings) == 1
    assert "Temperature every" in warnings[0]
    assert any("Temperature.sampling_ms" in event.facts for event in sink.of(Described))


async def test_nan_is_recorded_and_marked_unusable(furnace: Start, config: Make, recording: Callable[..., Any]) -> None:
    device = furnace("--rate", "20", "--fault", "nan@0.3")
    async with recording(config(device.ready["endpoint"], "Temperature")) as sink:
        await sink.until(lambda s: s.of(Opened))
        device.go()
        await sink.until(lambda s: any(valid == Valid.BAD for _, _, valid in rows(s, "Temperature")))
        await sink.until(lambda s: rows(s, "Temperature")[-1][2] == Valid.GOOD)
    bad = [value for value, _, valid in rows(sink, "Temperature") if valid == Valid.BAD]
    assert len(bad) == 1
    assert np.isnan(bad[0])


async def test_a_changed_type_opens_the_stream_anew_and_back(furnace: Start, config: Make, recording: Callable[..., Any]) -> None:
    device = furnace("--rate", "20", "--fault", "typechange@0.3")
    async with recording(config(device.ready["endpoint"], "Temperature")) as sink:
        await sink.until(lambda s: s.of(Opened))
        device.go()
        await sink.until(lambda s: len(s.of(Opened)) == 3)
    assert [event.stream.dtype for event in sink.of(Opened)] == ["<f8", "|S256", "<f8"]
    assert b"HOT" in [value for value, _, _ in rows(sink, "Temperature")]


async def test_browse_paths_folders_and_tables_find_the_same_variables(idle_furnace: Device, config: Make) -> None:
    endpoint = idle_furnace.ready["endpoint"]
    index = idle_furnace.ready["nodes"]["Temperature"].partition(";")[0].removeprefix("ns=")
    paths = [f"0:Objects/{index}:Furnace/{index}:Temperature", {"id": f"ns={index};s=Setpoint", "name": "wanted", "unit": "K"}]
    streams = await OpcUaAdapter("furnace", config(endpoint, nodes=paths)).preview()
    assert [(s.name, s.unit, s.dtype) for s in streams] == [("Temperature", "°C", "<f8"), ("wanted", "K", "<f8")]
    below = await OpcUaAdapter("furnace", config(endpoint, browse=f"0:Objects/{index}:Furnace")).preview()
    assert [s.name for s in below] == list(ALL)
    assert [s.dtype for s in below] == ["<f8", "<f8", "<f8", "|u1", "|S256", "<i4"]
    few = await OpcUaAdapter("furnace", config(endpoint, browse=f"0:Objects/{index}:Furnace", browse_limit=2)).preview()
    assert len(few) == 2


async def test_a_node_that_is_not_there_is_named_and_the_others_go_on(
    idle_furnace: Device, config: Make, recording: Callable[..., Any]
) -> None:
    endpoint = idle_furnace.ready["endpoint"]
    nodes = ["nsu=urn:nobody;s=X", "0:Objects/2:Nowhere", "i=85"]
    async with recording(config(endpoint, "Temperature", "Gone", nodes=nodes)) as sink:
        await sink.until(lambda s: len(s.of(Disconnected)) == 4 and len(s.values("Temperature")))
    why = {event.source.partition("#")[2]: event.why for event in sink.of(Disconnected)}
    assert f"has no variable 'nsu={NAMESPACE};s=Gone': BadNodeIdUnknown" in why[f"nsu={NAMESPACE};s=Gone"]
    assert "does not know the namespace 'urn:nobody'; it has" in why["nsu=urn:nobody;s=X"]
    assert "has no variable '0:Objects/2:Nowhere'" in why["0:Objects/2:Nowhere"]
    assert "it is there, but is no variable" in why["i=85"]
    assert [event.source for event in sink.of(Connected)] == [endpoint]


async def test_preview_of_nothing_says_what_is_missing(idle_furnace: Device, config: Make) -> None:
    with pytest.raises(InstrumentUnreachable) as caught:
        await OpcUaAdapter("furnace", config(idle_furnace.ready["endpoint"], "Gone")).preview()
    assert "nothing to record at" in caught.value.what
    assert "Gone" in caught.value.why
    assert "OPC-UA browser" in caught.value.try_


async def test_the_recorder_can_be_slow_without_losing_a_value(furnace: Start, config: Make, recording: Callable[..., Any]) -> None:
    device = furnace("--rate", "50", "--count", "100")
    async with recording(config(device.ready["endpoint"], "Temperature", "Step")) as sink:
        await sink.until(lambda s: len(s.values("Step")) and len(s.values("Temperature")))
        sink.gate.clear()
        device.go()
        sent = await asyncio.to_thread(device.wait_stopped)
        sink.gate.set()
        await sink.until(lambda s: len(s.values("Step")) == sent["Step"] + 1)
    assert sink.values("Step").tolist() == list(range(sent["Step"] + 1))


async def test_a_watched_variable_gives_its_value_and_each_change(idle_furnace: Device) -> None:
    uri = f"{idle_furnace.ready['endpoint']}#nsu={NAMESPACE};s=Setpoint"
    watching = OpcUaAdapter.watch(uri, {"timeout": "1 s", "publish": "50 ms"})
    async with asyncio.timeout(20):
        assert (await anext(watching))[0] == 650.0
        await asyncio.to_thread(idle_furnace.command, "set Setpoint 700")
        value, t = await anext(watching)
    await watching.aclose()  # type: ignore[attr-defined]
    assert idle_furnace.truth is not None
    assert (value, t) == [(item.v, item.t) for item in read_truth(idle_furnace.truth).items][-1]


@pytest.mark.parametrize(("uri", "says"), [("opc.tcp://127.0.0.1:1", "names no variable"), ("http://x#i=1", "cannot be watched")])
async def test_a_trigger_that_names_nothing_is_refused(uri: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        await anext(OpcUaAdapter.watch(uri))
