"""A server in this process with everything a plant has: structures, states, pictures, alarms, history, devices that come and go."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from asyncua import Server, ua
from asyncua.common.structures104 import new_enum, new_struct, new_struct_field
from PIL import Image

from adapters.opcua import OpcUaAdapter, OpcUaConfig, session
from adapters.opcua.browse import fits
from adapters.testing import Connected, Described, Disconnected, Opened, RecordingSink
from edge_agent.model import Cause, Kind, Valid
from firmware_sim.loopback import hold_port

Make = Callable[..., OpcUaConfig]
URI = "urn:test:plant"
DI = "http://opcfoundation.org/UA/DI/"


@dataclass
class Plant:
    server: Server
    endpoint: str
    index: int
    objects: Any
    port: int

    async def add(self, name: str, value: Any, kind: ua.VariantType | None = None, datatype: Any = None) -> Any:
        return await self.objects.add_variable(ua.NodeId(name, self.index), f"{self.index}:{name}", value, kind, datatype)

    def nodes(self, *names: str) -> list[str]:
        return [f"nsu={URI};s={name}" for name in names]


async def start(port: int) -> Plant:
    logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)
    server = Server()
    await server.init()
    endpoint = f"opc.tcp://127.0.0.1:{port}"
    server.set_endpoint(endpoint)
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace(URI)
    return Plant(server, endpoint, index, await server.nodes.objects.add_object(ua.NodeId("Plant", index), f"{index}:Plant"), port)


@pytest.fixture
async def plant() -> AsyncIterator[Plant]:
    made = await start(hold_port())
    async with made.server:
        yield made


def stream(sink: RecordingSink, name: str) -> Any:
    return next(event.stream for event in reversed(sink.of(Opened)) if event.stream.name == name)


async def test_a_structure_becomes_one_stream_a_part_and_states_have_names(
    plant: Plant, config: Make, recording: Callable[..., Any]
) -> None:
    fields = [new_struct_field("X", ua.VariantType.Double), new_struct_field("Axes", ua.VariantType.Int32, array=True)]
    await new_struct(plant.server, plant.index, "PlantPosition", fields)
    await new_enum(plant.server, plant.index, "PlantMode", ["idle", "heating"])
    await plant.server.load_data_type_definitions()
    position = ua.PlantPosition(X=1.5, Axes=[3, 4])
    await plant.add("Position", position)
    await plant.add("Track", [position, ua.PlantPosition(X=2.5, Axes=[5, 6])])
    await plant.add("Mode", ua.PlantMode.heating, datatype=ua.enums_datatypes[ua.PlantMode])
    await plant.add("Range", ua.Range(-1.0, 2.0))
    async with recording(config(plant.endpoint, nodes=plant.nodes("Position", "Track", "Mode", "Range"))) as sink:
        await sink.until(lambda s: len({e.stream.name for e in s.of(Opened)}) == 7)
    assert sink.values("Position.X").tolist() == [1.5]
    assert sink.values("Position.Axes").tolist() == [[3, 4]]
    assert sink.values("Track.X").tolist() == [[1.5, 2.5]]
    assert sink.values("Track.Axes").tolist() == [[[3, 4], [5, 6]]]
    assert sink.values("Range.High").tolist() == [2.0]
    mode = stream(sink, "Mode")
    assert (mode.dtype, mode.attributes["state_0"], mode.attributes["state_1"]) == ("<i4", "idle", "heating")
    assert sink.values("Mode").tolist() == [1]


async def test_pictures_and_matrices_become_frames(plant: Plant, config: Make, recording: Callable[..., Any]) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    png = ua.Variant(file.getvalue(), ua.VariantType.ByteString)
    camera = await plant.add("Camera", png, datatype=ua.NodeId(2003))
    await plant.add("Raw", ua.Variant(np.arange(6, dtype="<u2").tobytes(), ua.VariantType.ByteString))
    await plant.add("Map", ua.Variant([[1.0, 2.0], [3.0, 4.0]], ua.VariantType.Double, [2, 2], is_array=True))
    camera_node, raw, matrix = plant.nodes("Camera", "Raw", "Map")
    nodes = [camera_node, {"id": raw, "pixels": "2 x 3 uint16"}, {"id": matrix, "frames": True}]
    async with recording(config(plant.endpoint, nodes=nodes)) as sink:
        await sink.until(lambda s: s.frames("Camera") and s.frames("Raw") and s.frames("Map"))
        await camera.write_value(ua.Variant(b"no picture", ua.VariantType.ByteString))
        await sink.until(lambda s: s.gaps("Camera"))
        await camera.write_value(png)
        await sink.until(lambda s: len(s.frames("Camera")) == 2)
    first, second = sink.frames("Camera")
    assert np.array_equal(first.data, pixels)
    assert (first.number, first.valid, second.number, second.valid) == (0, Valid.INITIAL, 1, Valid.GOOD)
    assert sink.gaps("Camera")[0].cause is Cause.GARBAGE
    assert sink.frames("Raw")[0].data.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert sink.frames("Map")[0].data.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert stream(sink, "Camera").kind is Kind.FRAMES


async def test_events_are_a_stream_of_their_own(plant: Plant, config: Make, recording: Callable[..., Any]) -> None:
    generator = await plant.server.get_event_generator()
    await plant.add("Value", 1.0)
    async with recording(config(plant.endpoint, nodes=plant.nodes("Value"), events=["i=2253"], min_severity=200)) as sink:
        await sink.until(lambda s: s.of(Connected))
        generator.event.Severity = 500
        await generator.trigger(message="door opened")
        generator.event.Severity = 100
        await generator.trigger(message="not worth it")
        generator.event.Severity = 700
        await generator.trigger(message="too hot")
        await sink.until(lambda s: len(s.values("events")) == 2)
    events = [json.loads(text) for text in sink.values("events").tolist()]
    assert [(event["message"], event["severity"], event["type"], event["source"]) for event in events] == [
        ("door opened", 500, "BaseEventType", "Server"),
        ("too hot", 700, "BaseEventType", "Server"),
    ]
    (block, *_) = sink.blocks("events")
    assert abs(int(block.t_source[0]) - int(block.t_arrival[0])) < 5 * 10**9
    assert block.valid is not None
    assert block.valid.tolist()[0] == Valid.GOOD


async def test_a_pattern_finds_variables_below_a_folder(plant: Plant, config: Make) -> None:
    for zone in (1, 2):
        folder = await plant.objects.add_object(ua.NodeId(f"Zone{zone}", plant.index), f"{plant.index}:Zone{zone}")
        for name in ("Temperature", "Pressure"):
            await folder.add_variable(ua.NodeId(f"Z{zone}{name}", plant.index), f"{plant.index}:{name}", float(zone))
    found = await OpcUaAdapter("plant", config(plant.endpoint, pattern=["Plant/Zone*/Temp*"])).preview()
    assert [one.name for one in found] == ["Plant.Zone1.Temperature", "Plant.Zone2.Temperature"]
    below = config(plant.endpoint, browse=f"nsu={URI};s=Plant", pattern=["**/Pressure"])
    assert [one.name for one in await OpcUaAdapter("plant", below).preview()] == ["Zone1.Pressure", "Zone2.Pressure"]


@pytest.mark.parametrize(
    ("path", "pattern", "fit"),
    [
        ("A/B", "A/B", True),
        ("A/B", "2:A/3:B", True),
        ("A/B", "*", False),
        ("A/B/C", "**/C", True),
        ("C", "**/C", True),
        ("A/B", "A/[CD]", False),
    ],
)
def test_patterns_are_read_like_paths_of_files(path: str, pattern: str, fit: bool) -> None:
    assert fits(path.split("/"), pattern) is fit


async def test_a_laboratory_device_is_found_by_its_name_or_serial_number(plant: Plant, config: Make, recording: Callable[..., Any]) -> None:
    di = await plant.server.register_namespace(DI)
    devices = await plant.server.nodes.objects.add_object(ua.NodeId(5001, di), f"{di}:DeviceSet")
    device = await devices.add_object(ua.NodeId("D1", plant.index), f"{plant.index}:Incubator")
    await device.add_property(ua.NodeId("D1S", plant.index), f"{di}:SerialNumber", "SN-77")
    await device.add_property(ua.NodeId("D1M", plant.index), f"{di}:Manufacturer", ua.LocalizedText("Maker"))
    units = await device.add_object(ua.NodeId("D1U", plant.index), f"{plant.index}:FunctionalUnitSet")
    unit = await units.add_object(ua.NodeId("D1U1", plant.index), f"{plant.index}:Chamber")
    functions = await unit.add_object(ua.NodeId("D1F", plant.index), f"{plant.index}:FunctionSet")
    sensor = await functions.add_object(ua.NodeId("D1F1", plant.index), f"{plant.index}:Temperature")
    await sensor.add_variable(ua.NodeId("D1V", plant.index), f"{plant.index}:SensorValue", 37.0)
    for name in ("Incubator", "SN-77"):
        async with recording(config(plant.endpoint, lads=name)) as sink:
            await sink.until(lambda s: s.of(Opened) and any("SerialNumber" in e.facts for e in s.of(Described)))
        assert sink.values("Chamber.Temperature.SensorValue").tolist() == [37.0]
    async with recording(config(plant.endpoint, lads="Oven")) as sink:
        await sink.until(lambda s: s.of(Disconnected))
    assert sink.of(Disconnected)[0].why == "it has no laboratory device 'Oven'; it has Incubator"


async def test_items_beyond_the_limit_of_a_subscription_go_into_another_one(
    plant: Plant, config: Make, recording: Callable[..., Any]
) -> None:
    await plant.server.get_node(ua.NodeId(24104)).write_value(ua.Variant(4, ua.VariantType.UInt32))
    names = [f"Tag{n}" for n in range(10)]
    nodes = [await plant.add(name, float(n)) for n, name in enumerate(names)]
    async with recording(config(plant.endpoint, nodes=plant.nodes(*names))) as sink:
        await sink.until(lambda s: all(len(s.values(name)) for name in names))
        assert len(plant.server.iserver.subscription_service.subscriptions) == 4  # 3 items and the clock in each
        assert len(plant.server.bserver.clients) == 1, "all of them in one session of one connection"
        for node in nodes:
            await node.write_value(100.0)
        await sink.until(lambda s: all(s.values(name).tolist()[-1] == 100.0 for name in names))
    facts = {key: value for event in sink.of(Described) for key, value in event.facts.items()}
    assert facts["items_per_subscription"] == 4


# asyncua's server makes a coroutine for the deleted variable's watcher and forgets it.
@pytest.mark.filterwarnings("ignore:.*MonitoredItemService.datachange_callback:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*MonitoredItemService.datachange_callback:pytest.PytestUnraisableExceptionWarning")
async def test_a_variable_that_vanishes_is_that_variables_affair(
    plant: Plant, config: Make, recording: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOOK_AGAIN_SECONDS", 0.3)
    gone, other = await plant.add("Gone", 1.0), await plant.add("Other", 1.0)
    async with recording(config(plant.endpoint, nodes=plant.nodes("Gone", "Other"), silence="600 ms")) as sink:
        await sink.until(lambda s: len(s.values("Gone")) and len(s.values("Other")))
        await plant.server.delete_nodes([gone])
        await sink.until(lambda s: s.of(Disconnected))
        assert "is no longer there: BadNodeIdUnknown" in sink.of(Disconnected)[0].why
        await other.write_value(2.0)
        await sink.until(lambda s: s.values("Other").tolist() == [1.0, 2.0])
        await plant.add("Gone", 5.0)
        await sink.until(lambda s: s.values("Gone").tolist()[-1] == 5.0)
    (gap,) = sink.gaps("Gone")
    assert gap.cause is Cause.DISCONNECT
    assert not sink.gaps("Other")
    assert len([event for event in sink.of(Disconnected) if event.source == plant.endpoint]) == 0


async def test_an_item_that_a_server_forgot_is_noticed_by_reading_it(plant: Plant, config: Make, recording: Callable[..., Any]) -> None:
    node = await plant.add("Deaf", 1.0)
    await plant.add("Still", 1.0)
    async with recording(config(plant.endpoint, nodes=plant.nodes("Deaf", "Still"), silence="400 ms")) as sink:
        await sink.until(lambda s: len(s.values("Deaf")) and len(s.values("Still")))
        # A value that comes from a callback is read, and never reported.
        changed = ua.DataValue(ua.Variant(2.0), SourceTimestamp=datetime.now(UTC))
        plant.server.set_attribute_value_callback(node.nodeid, lambda _node, _attribute: changed)
        await sink.until(lambda s: s.values("Deaf").tolist() == [1.0, 2.0])
    assert [gap.detail for gap in sink.gaps("Deaf")] == ["the server stopped reporting changes of this variable"]
    assert sink.values("Still").tolist() == [1.0]
    assert not sink.gaps("Still")


async def test_an_outage_is_filled_from_the_servers_history_and_marked(plant: Plant, config: Make, recording: Callable[..., Any]) -> None:
    node = await plant.add("Logged", 0.0)
    await plant.server.historize_node_data_change(node, count=1000)
    begin = datetime.now(UTC)

    async def write(n: int) -> None:
        t = begin + timedelta(milliseconds=10 * n)
        await plant.server.write_attribute_value(node.nodeid, ua.DataValue(ua.Variant(float(n)), SourceTimestamp=t, ServerTimestamp=t))

    async with recording(config(plant.endpoint, nodes=plant.nodes("Logged"))) as sink:
        await write(1)
        await sink.until(lambda s: s.values("Logged").tolist()[-1:] == [1.0])
        await plant.server.bserver.stop()
        await sink.until(lambda s: s.of(Disconnected))
        for n in range(2, 8):
            await write(n)
        await plant.server.bserver.start()
        await sink.until(lambda s: s.values("Logged").tolist()[-1:] == [7.0], timeout=40)
        await write(8)
        await sink.until(lambda s: s.values("Logged").tolist()[-1:] == [8.0])
    marks = {v: int(m) for block in sink.blocks("Logged") for v, m in zip(block.values.tolist(), block.valid.tolist(), strict=True)}
    assert [marks[float(n)] for n in range(2, 9)] == [Valid.HISTORY] * 5 + [Valid.INITIAL, Valid.GOOD]
    (gap,) = sink.gaps("Logged")
    assert (gap.cause, gap.count) == (Cause.DISCONNECT, 0)
    assert "nothing is missing by the server's history, of which 5 values came" in gap.detail


async def test_a_counter_gives_what_is_missing_a_number(plant: Plant, config: Make, recording: Callable[..., Any]) -> None:
    node = await plant.add("Shots", ua.Variant(10, ua.VariantType.UInt32))
    counted = [{"id": plant.nodes("Shots")[0], "counts_by": 1}]
    async with recording(config(plant.endpoint, nodes=counted)) as sink:
        await sink.until(lambda s: len(s.values("Shots")) == 1)
        for n in (11, 15, 2):
            await node.write_value(ua.Variant(n, ua.VariantType.UInt32))
            await sink.until(lambda s, n=n: s.values("Shots").tolist()[-1] == n)
    (gap,) = sink.gaps("Shots")
    assert (gap.cause, gap.first, gap.last, gap.count) == (Cause.SOURCE, 12, 14, 3)
    assert stream(sink, "Shots").counted
    (reset,) = [event.reset for event in sink.events if hasattr(event, "reset")]
    assert (reset.last, reset.first) == (15, 2)
