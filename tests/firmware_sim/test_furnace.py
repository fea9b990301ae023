from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
from asyncua import Client, ua

from firmware_sim.launch import Device, DeviceError

StartDevice = Callable[..., Device]
STREAMS = ("Temperature", "Setpoint", "HeaterPower", "Stable", "Program", "Step")


def to_ns(t: datetime) -> int:
    return int(t.timestamp()) * 1_000_000_000 + t.microsecond * 1000


class Recorder:
    """Collects (source time in ns, value) per stream."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[int, Any]]] = {stream: [] for stream in STREAMS}

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        stream = node.nodeid.Identifier
        self.seen[stream].append((to_ns(data.monitored_item.Value.SourceTimestamp), value))

    async def has(self, stream: str, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.seen[stream]) < count:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def subscribed(furnace: Device) -> AsyncIterator[tuple[Client, Recorder]]:
    recorder = Recorder()
    async with Client(furnace.ready["endpoint"]) as client:
        subscription = await client.create_subscription(20, recorder)
        nodes = [client.get_node(furnace.ready["nodes"][stream]) for stream in STREAMS]
        await subscription.subscribe_data_change(nodes, queuesize=1000)
        for stream in STREAMS:
            await recorder.has(stream, 1)
        yield client, recorder


def expected(furnace: Device, stream: str) -> list[tuple[int, Any]]:
    truth = furnace.read_truth()
    first = truth.initial_of(stream)
    assert first is not None
    return [(item.t, item.v) for item in (first, *truth.of(stream))]


@pytest.fixture(autouse=True)
def quiet_client(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("asyncua").setLevel(logging.ERROR)


async def test_every_value_and_source_time_equals_the_truth(device: StartDevice) -> None:
    furnace = await asyncio.to_thread(device, "furnace", "--rate", "50", "--count", "120", hold=True)
    async with subscribed(furnace) as (_, recorder):
        await asyncio.to_thread(furnace.go)
        sent = await asyncio.to_thread(furnace.wait_stopped)
        assert sent["Temperature"] == sent["HeaterPower"] == sent["Step"] == 120
        assert sent["Setpoint"] == 1
        for stream in STREAMS:
            await recorder.has(stream, sent.get(stream, 0) + 1)
            assert recorder.seen[stream] == expected(furnace, stream), stream


async def test_production_begins_when_a_client_has_subscribed(device: StartDevice) -> None:
    furnace = await asyncio.to_thread(device, "furnace", "--rate", "100", "--count", "10")
    async with subscribed(furnace) as (_, recorder):
        await recorder.has("Step", 11)
        assert [value for _, value in recorder.seen["Step"]] == list(range(11))


async def test_nodes_say_type_unit_and_range(device: StartDevice) -> None:
    furnace = await asyncio.to_thread(device, "furnace", hold=True)
    assert furnace.ready["endpoint"].startswith("opc.tcp://127.0.0.1:")
    async with Client(furnace.ready["endpoint"]) as client:
        index = await client.get_namespace_index("urn:firmware-sim:furnace")
        assert furnace.ready["nodes"]["Temperature"] == f"ns={index};s=Temperature"
        temperature = client.get_node(f"ns={index};s=Temperature")
        unit = await (await temperature.get_child("0:EngineeringUnits")).read_value()
        assert (unit.DisplayName.Text, unit.Description.Text, unit.UnitId) == ("°C", "degree Celsius", 4408652)
        limits = await (await temperature.get_child("0:EURange")).read_value()
        assert (limits.Low, limits.High) == (0.0, 1200.0)
        kinds = {
            "Temperature": ua.VariantType.Double, "Setpoint": ua.VariantType.Double, "HeaterPower": ua.VariantType.Double,
            "Stable": ua.VariantType.Boolean, "Program": ua.VariantType.String, "Step": ua.VariantType.Int32,
        }  # fmt: skip
        for stream, kind in kinds.items():
            assert await client.get_node(f"ns={index};s={stream}").read_data_type_as_variant_type() == kind
        children = [await child.read_browse_name() for child in await client.get_node(f"ns={index};s=Furnace").get_children()]
        assert {name.Name for name in children} == set(STREAMS)
        for endpoint in await client.get_endpoints():
            assert endpoint.EndpointUrl == furnace.ready["endpoint"]


async def test_values_can_be_set_by_command(device: StartDevice) -> None:
    furnace = await asyncio.to_thread(device, "furnace", hold=True)
    async with subscribed(furnace) as (_, recorder):
        await asyncio.to_thread(furnace.command, "set Setpoint 700")
        await asyncio.to_thread(furnace.command, "set Program anneal-700")
        with pytest.raises(DeviceError, match="no temperature from 0 to 1200"):
            await asyncio.to_thread(furnace.command, "set Setpoint nan")
        with pytest.raises(DeviceError, match="the furnace knows"):
            await asyncio.to_thread(furnace.command, "set Step 3")
        assert await asyncio.to_thread(furnace.stop) == {"Setpoint": 1, "Program": 1}
        for stream in ("Setpoint", "Program"):
            await recorder.has(stream, 2)
            assert recorder.seen[stream] == expected(furnace, stream)


async def test_faults_show_in_the_values_and_in_the_truth(device: StartDevice) -> None:
    faults = ("nan@0.2", "typechange@0.4", "hang@0.6:0.7")
    options = [word for fault in faults for word in ("--fault", fault)]
    furnace = await asyncio.to_thread(device, "furnace", "--rate", "50", "--count", "60", *options, hold=True)
    async with subscribed(furnace) as (_, recorder):
        await asyncio.to_thread(furnace.go)
        sent = await asyncio.to_thread(furnace.wait_stopped)
        await recorder.has("Temperature", sent["Temperature"] + 1)
        got, want = recorder.seen["Temperature"], expected(furnace, "Temperature")
    assert [(t, str(value)) for t, value in got] == [(t, str(value)) for t, value in want]
    values = [value for _, value in got]
    assert [value for value in values if isinstance(value, str)] == ["HOT"]
    assert len([value for value in values if isinstance(value, float) and math.isnan(value)]) == 1
    assert max(b[0] - a[0] for a, b in itertools.pairwise(got)) > 650_000_000
    assert [fault.kind for fault in furnace.read_truth().faults] == ["nan", "typechange", "hang"]
