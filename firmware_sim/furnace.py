"""A tube furnace behind an OPC-UA server: a temperature programme with noise.

Nodes `ns=N;s=Temperature` and so on, in the namespace `urn:firmware-sim:furnace`, below the object `ns=N;s=Furnace`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from asyncua import Node, Server, ua

from firmware_sim.faults import Fault
from firmware_sim.instrument import CommandError
from firmware_sim.opcua import CELSIUS, PERCENT, SERVER_FAULTS, OpcUaInstrument
from firmware_sim.truth import Scalar

TOP: Final = 1200.0  # degree Celsius
HOLD_TICKS: Final = 100
STABLE_WITHIN: Final = 5.0  # degree Celsius


class Furnace(OpcUaInstrument):
    """`firmware-sim furnace`. Ready line: `endpoint`, `namespace`, `nodes` (stream name to node id), with --secure `fingerprint`."""

    name = "furnace"
    model = "TF-1200 (simulated)"
    main_stream = "Temperature"
    namespace = "urn:firmware-sim:furnace"
    path = "furnace"
    kinds: ClassVar[Mapping[str, ua.VariantType]] = {
        "Temperature": ua.VariantType.Double, "Setpoint": ua.VariantType.Double, "HeaterPower": ua.VariantType.Double,
        "Stable": ua.VariantType.Boolean, "Program": ua.VariantType.String, "Step": ua.VariantType.Int32,
    }  # fmt: skip
    units: ClassVar[Mapping[str, str]] = {
        "Temperature": "°C", "Setpoint": "°C", "HeaterPower": "%", "Stable": "", "Program": "", "Step": "",
    }  # fmt: skip
    faults: ClassVar[Mapping[str, str]] = {
        **SERVER_FAULTS,
        "nan": "Temperature is once not a number",
        "typechange": "Temperature is once a String",
        "reorder": "two values of Temperature in the wrong order of their source times",
        "reset": "Step begins again at 0",
    }

    def at_start(self) -> dict[str, Scalar]:
        """Cold, before the first step."""
        return {"Temperature": 20.0, "Setpoint": 650.0, "HeaterPower": 12.5, "Stable": False, "Program": "sinter-650", "Step": 0}

    async def populate(self, server: Server) -> Mapping[str, Node]:
        """Make one object with its variables."""
        index = await server.register_namespace(self.namespace)
        furnace = await server.nodes.objects.add_object(ua.NodeId("Furnace", index), f"{index}:Furnace")
        for stream, kind in self.kinds.items():
            value = ua.Variant(self.now[stream], kind)
            self.nodes[stream] = await furnace.add_variable(ua.NodeId(stream, index), f"{index}:{stream}", value)
        for stream, unit, top in (("Temperature", CELSIUS, TOP), ("Setpoint", CELSIUS, TOP), ("HeaterPower", PERCENT, 100.0)):
            await self.describe(stream, unit, 0.0, top)
        return self.nodes

    async def tick(self) -> None:
        """Heat on: Temperature, HeaterPower and Step always change, Setpoint and Stable now and then."""
        step = int(self.now["Step"]) + 1
        if step % HOLD_TICKS == 0:
            await self.send("Setpoint", round(float(self.rng.uniform(300, 1100)), 0))
        setpoint = float(self.now["Setpoint"])
        gap = setpoint - float(self.now["Temperature"])
        temperature = float(self.now["Temperature"]) + 0.08 * gap + float(self.rng.normal(0, 0.3))
        await self.send("Temperature", self.other("Temperature", round(temperature, 2), 0.01))
        power = min(95.0, max(5.0, 10 + setpoint / 20 + gap / 8 + float(self.rng.normal(0, 0.2))))
        await self.send("HeaterPower", self.other("HeaterPower", round(power, 1), 0.1))
        await self.send("Step", step)
        await self.send("Stable", abs(gap) < STABLE_WITHIN)

    async def inject(self, fault: Fault, at: float) -> None:
        """As any server; `reset` is the furnace's own."""
        await super().inject(fault, at)
        if fault.kind == "reset":
            await self.send("Step", 0)

    async def command(self, words: Sequence[str]) -> Mapping[str, Any]:
        """Obey `set Setpoint CELSIUS` and `set Program NAME`."""
        match words:
            case ["set", "Setpoint", number]:
                value: Scalar = _celsius(number)
            case ["set", "Program", value]:
                pass
            case _:
                raise CommandError("the furnace knows: go, stop, quit, set Setpoint CELSIUS, set Program NAME")
        await self.send(words[1], value)
        return {"stream": words[1], "sent": self.truth.sent.get(words[1], 0)}


def _celsius(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= TOP:
        raise CommandError(f"{text!r} is no temperature from 0 to {TOP:g} degree Celsius; write for example: set Setpoint 650")
    return value
