"""What the simulated OPC-UA servers have in common: a LADS address space, and servers that misbehave."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from asyncua import Client

from firmware_sim.launch import Device, DeviceError

StartDevice = Callable[..., Device]


async def child(node: Any, *names: str) -> Any:
    for name in names:
        children = {(await one.read_browse_name()).Name: one for one in await node.get_children()}
        node = children[name]
    return node


async def test_a_lads_device_is_found_by_the_names_and_types_of_its_model(device: StartDevice) -> None:
    incubator = device("lads", hold=True, seed=7)
    async with Client(incubator.ready["endpoint"]) as client:
        di = await client.get_namespace_index("http://opcfoundation.org/UA/DI/")
        lads = await client.get_namespace_index("http://opcfoundation.org/UA/LADS/")
        device_set = await client.nodes.objects.get_child(f"{di}:DeviceSet")
        assert device_set.nodeid.Identifier == 5001
        (one,) = await device_set.get_children()
        assert (await one.read_type_definition()).Identifier == 1002
        assert (await one.read_type_definition()).NamespaceIndex == lads
        assert await (await child(one, "Identification", "SerialNumber")).read_value() == "L000007"
        assert (await (await child(one, "DeviceState", "CurrentState")).read_value()).Text == "Operate"
        functions = await child(one, "FunctionalUnitSet", "Chamber", "FunctionSet")
        assert [(await f.read_browse_name()).Name for f in await functions.get_children()] == ["Temperature", "CO2", "Humidity"]
        value = await child(functions, "Temperature", "CurrentValue")
        assert value.nodeid.to_string() == incubator.ready["nodes"]["Temperature"]
        assert (await (await child(value, "EngineeringUnits")).read_value()).DisplayName.Text == "°C"
        assert await value.read_value() == 30.0


class Seen:
    def __init__(self) -> None:
        self.values: list[tuple[int, Any]] = []
        self.changed = asyncio.Event()

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        stamp = data.monitored_item.Value.SourceTimestamp
        self.values.append((int(stamp.timestamp()) * 10**9 + stamp.microsecond * 1000, value))
        self.changed.set()


async def test_the_clock_of_a_server_is_set_and_two_values_change_places(device: StartDevice) -> None:
    plan = ("--fault", "reorder@0.2", "--fault", "clockstep@0.5:-3600")
    incubator = device("lads", "--rate", "20", "--count", "20", *plan, hold=True)
    seen = Seen()
    async with Client(incubator.ready["endpoint"]) as client:
        subscription = await client.create_subscription(20, seen)
        await subscription.subscribe_data_change([client.get_node(incubator.ready["nodes"]["Temperature"])], queuesize=1000)
        incubator.go()
        await asyncio.to_thread(incubator.wait_stopped)
        truth = incubator.read_truth()
        wanted = [(item.t, item.v) for item in (*truth.initial, *truth.of("Temperature")) if item.stream == "Temperature"]
        async with asyncio.timeout(20):
            while len(seen.values) < len(wanted):
                seen.changed.clear()
                await seen.changed.wait()
    assert seen.values == wanted
    steps = [b[0] - a[0] for a, b in zip(wanted, wanted[1:], strict=False)]
    assert sum(step < 0 for step in steps) == 2
    assert min(steps) < -3500e9


@pytest.mark.parametrize(("fault", "seen"), [("disconnect", 0), ("garbage", 64), ("partial", 8)])
def test_a_server_spoils_its_connections(device: StartDevice, fault: str, seen: int) -> None:
    furnace = device("furnace", "--rate", "20", "--fault", f"{fault}@0.1", hold=True)
    endpoint = furnace.ready["endpoint"]
    host, port = endpoint.split("//")[1].split("/")[0].split(":")
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        # Hello (OPC 10000-6, 7.1.2.3): version, buffer sizes, limits, endpoint.
        body = struct.pack("<5I", 0, 65536, 65536, 0, 0) + struct.pack("<i", len(endpoint)) + endpoint.encode()
        raw.sendall(b"HELF" + struct.pack("<I", 8 + len(body)) + body)
        assert raw.recv(28)[:4] == b"ACKF"
        furnace.go()
        try:
            data = raw.recv(64)
        except ConnectionResetError:
            data = b""
    assert len(data) == seen


async def test_a_secure_server_shows_another_certificate_after_the_fault(device: StartDevice) -> None:
    furnace = device("furnace", "--secure", "--rate", "20", "--fault", "certificate@0.1", hold=True)

    async def shown() -> str:
        (endpoint, *_) = await Client(furnace.ready["endpoint"]).connect_and_get_server_endpoints()
        return hashlib.sha256(endpoint.ServerCertificate).hexdigest()

    assert await shown() == furnace.ready["fingerprint"]
    furnace.go()
    async with asyncio.timeout(20):
        while not furnace.read_truth().faults:
            await asyncio.sleep(0.05)
    (fault,) = furnace.read_truth().faults
    assert await shown() == fault.details["fingerprint"] != furnace.ready["fingerprint"]


def test_a_server_without_security_has_no_certificate_to_change(device: StartDevice) -> None:
    with pytest.raises(DeviceError, match="give --secure"):
        device("lads", "--fault", "certificate@1")
