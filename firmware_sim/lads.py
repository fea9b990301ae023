"""A CO2 incubator behind an OPC-UA server whose address space follows LADS (OPC 30500-1) on top of DI (OPC 10000-100).

`Objects/2:DeviceSet/3:Incubator` is a LADSDeviceType with Identification, a state, and one functional unit, `Chamber`, whose functions are
control functions (CurrentValue, TargetValue) and a sensor function (SensorValue). Of the two companion models only the types
that this device uses are there, under the numbers that the models give them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from asyncua import Node, Server, ua

from firmware_sim.opcua import CELSIUS, PERCENT, SERVER_FAULTS, OpcUaInstrument
from firmware_sim.truth import Scalar

DI: Final = "http://opcfoundation.org/UA/DI/"
LADS: Final = "http://opcfoundation.org/UA/LADS/"
DEVICE_SET: Final = 5001
DI_TYPES: Final = {"TopologyElementType": 1001, "DeviceType": 1002, "FunctionalGroupType": 1005}
LADS_TYPES: Final = {
    "LADSDeviceType": 1002, "FunctionalUnitType": 1003, "FunctionType": 1004, "AnalogControlFunctionType": 1009,
    "AnalogScalarSensorFunctionType": 1016, "FunctionalUnitSetType": 1023, "FunctionSetType": 1026, "LADSDeviceStateMachineType": 1039,
    "FunctionalUnitStateMachineType": 1043, "ControlFunctionStateMachineType": 1044,
}  # fmt: skip
STREAMS: Final = {
    "Temperature": ("Temperature", "CurrentValue"), "TemperatureTarget": ("Temperature", "TargetValue"),
    "CO2": ("CO2", "CurrentValue"), "CO2Target": ("CO2", "TargetValue"), "Humidity": ("Humidity", "SensorValue"),
}  # fmt: skip
"""Stream: the function, and its variable."""
STEP_TICKS: Final = 50


class Incubator(OpcUaInstrument):
    """`firmware-sim lads`. Ready line: as the furnace's; `device` in the address space is `DeviceSet/Incubator`."""

    name = "lads"
    model = "CB-170 (simulated)"
    main_stream = "Temperature"
    namespace = "urn:firmware-sim:incubator"
    path = "lads"
    kinds: ClassVar[Mapping[str, ua.VariantType]] = dict.fromkeys(STREAMS, ua.VariantType.Double)
    units: ClassVar[Mapping[str, str]] = {
        "Temperature": "°C", "TemperatureTarget": "°C", "CO2": "%", "CO2Target": "%", "Humidity": "%",
    }  # fmt: skip
    faults: ClassVar[Mapping[str, str]] = {
        **SERVER_FAULTS,
        "nan": "Temperature is once not a number",
        "typechange": "Temperature is once a String",
        "reorder": "two values of Temperature in the wrong order of their source times",
    }

    def at_start(self) -> dict[str, Scalar]:
        """Warm, and no gas yet."""
        return {"Temperature": 30.0, "TemperatureTarget": 37.0, "CO2": 0.04, "CO2Target": 5.0, "Humidity": 60.0}

    async def populate(self, server: Server) -> Mapping[str, Node]:
        """Make types, device set, device, unit and functions."""
        di = await server.register_namespace(DI)
        lads = await server.register_namespace(LADS)
        own = await server.register_namespace(self.namespace)
        types = {}
        for index, names in ((di, DI_TYPES), (lads, LADS_TYPES)):
            for name, number in names.items():
                types[name] = await server.nodes.base_object_type.add_object_type(ua.NodeId(number, index), ua.QualifiedName(name, index))

        async def add(parent: Node, name: str, kind: str, namespace: int = lads) -> Node:
            identifier = name if parent == device_set else f"{parent.nodeid.Identifier}.{name}"
            return await parent.add_object(ua.NodeId(identifier, own), ua.QualifiedName(name, namespace), objecttype=types[kind].nodeid)

        device_set = await server.nodes.objects.add_object(ua.NodeId(DEVICE_SET, di), ua.QualifiedName("DeviceSet", di))
        device = await add(device_set, "Incubator", "LADSDeviceType", own)
        await self._identify(device, await add(device, "Identification", "FunctionalGroupType", di), di)
        await self._state(await add(device, "DeviceState", "LADSDeviceStateMachineType"), "Operate")
        units = await add(device, "FunctionalUnitSet", "FunctionalUnitSetType")
        chamber = await add(units, "Chamber", "FunctionalUnitType", own)
        await self._state(await add(chamber, "FunctionalUnitState", "FunctionalUnitStateMachineType"), "Running")
        functions = await add(chamber, "FunctionSet", "FunctionSetType")
        made: dict[str, Node] = {}
        for stream, (function, variable) in STREAMS.items():
            if function not in made:
                control = variable == "CurrentValue"
                kind = "AnalogControlFunctionType" if control else "AnalogScalarSensorFunctionType"
                made[function] = await add(functions, function, kind, own)
                if control:
                    await self._state(await add(made[function], "ControlFunctionState", "ControlFunctionStateMachineType"), "Running")
                enabled = ua.NodeId(f"{made[function].nodeid.Identifier}.IsEnabled", own)
                await made[function].add_property(enabled, ua.QualifiedName("IsEnabled", lads), True)
            node_id = ua.NodeId(f"{made[function].nodeid.Identifier}.{variable}", own)
            value = ua.Variant(self.now[stream], ua.VariantType.Double)
            self.nodes[stream] = await made[function].add_variable(node_id, ua.QualifiedName(variable, lads), value)
            warm = self.units[stream] == "°C"
            await self.describe(stream, CELSIUS if warm else PERCENT, 0.0, 60.0 if warm else 100.0)
        return self.nodes

    async def tick(self) -> None:
        """Warm on; the targets change now and then, everything else always."""
        if self.rng.random() < 1 / STEP_TICKS:
            await self.send("TemperatureTarget", round(float(self.rng.uniform(30, 42)), 1))
        for stream, target, step in (("Temperature", "TemperatureTarget", 0.01), ("CO2", "CO2Target", 0.001)):
            value = float(self.now[stream])
            value += 0.05 * (float(self.now[target]) - value) + float(self.rng.normal(0, step))
            await self.send(stream, self.other(stream, round(value, 3), step))
        humidity = 95 + float(self.rng.normal(0, 0.4))
        await self.send("Humidity", self.other("Humidity", round(humidity, 2), 0.01))

    async def _identify(self, device: Node, group: Node, di: int) -> None:
        """Who it is: properties of the device, and of its Identification."""
        serial, instance = f"L{self.options.seed:06d}", f"{self.namespace}:{self.options.seed}"
        said = {
            "Manufacturer": ua.LocalizedText("firmware-sim"), "Model": ua.LocalizedText(self.model), "SerialNumber": serial,
            "SoftwareRevision": "1.2", "HardwareRevision": "B", "DeviceRevision": "3", "ProductInstanceUri": instance,
        }  # fmt: skip
        for owner in (device, group):
            for name, value in said.items():
                node_id = ua.NodeId(f"{owner.nodeid.Identifier}.{name}", owner.nodeid.NamespaceIndex)
                await owner.add_property(node_id, ua.QualifiedName(name, di), value)

    async def _state(self, machine: Node, state: str) -> None:
        """Give a state machine its CurrentState (OPC 10000-16)."""
        node_id = ua.NodeId(f"{machine.nodeid.Identifier}.CurrentState", machine.nodeid.NamespaceIndex)
        await machine.add_variable(node_id, ua.QualifiedName("CurrentState", 0), ua.LocalizedText(state))
