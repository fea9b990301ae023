"""A tube furnace behind an OPC-UA server (asyncua): a temperature programme with noise.

Invariants: two successive values of a node differ, since OPC-UA reports changes only; every value carries an explicit
SourceTimestamp equal to the truth (multiples of 1 us, so of OPC-UA's 100 ns too). Nodes `ns=N;s=Temperature` and so
on, in the namespace `urn:firmware-sim:furnace`, below the object `ns=N;s=Furnace`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

from asyncua import Node, Server, ua
from asyncua.common.callback import CallbackType

from firmware_sim.faults import Fault
from firmware_sim.instrument import CommandError, Instrument, Options, Presence, StartError
from firmware_sim.loopback import LOOPBACK, hold_port
from firmware_sim.truth import Protocol, Scalar

NAMESPACE: Final = "urn:firmware-sim:furnace"
UNECE: Final = "http://www.opcfoundation.org/UA/units/un/cefact"
CELSIUS: Final = ("°C", "degree Celsius", 4408652)  # UN/CEFACT code CEL, as OPC 10000-8 makes a number of it
PERCENT: Final = ("%", "percent", 20529)  # P1

TOP: Final = 1200.0  # degree Celsius
HOLD_TICKS: Final = 100
STABLE_WITHIN: Final = 5.0  # degree Celsius

_TYPES: Final = {
    "Temperature": ua.VariantType.Double,
    "Setpoint": ua.VariantType.Double,
    "HeaterPower": ua.VariantType.Double,
    "Stable": ua.VariantType.Boolean,
    "Program": ua.VariantType.String,
    "Step": ua.VariantType.Int32,
}


class Furnace(Instrument):
    """`firmware-sim furnace`. Ready line: `endpoint`, `namespace` and `nodes` (stream name to node id)."""

    name = "furnace"
    model = "TF-1200 (simulated)"
    protocol: ClassVar[Protocol] = "opcua"
    main_stream = "Temperature"
    units: ClassVar[Mapping[str, str]] = {
        "Temperature": "°C", "Setpoint": "°C", "HeaterPower": "%", "Stable": "", "Program": "", "Step": "",
    }  # fmt: skip
    faults: ClassVar[Mapping[str, str]] = {
        "nan": "Temperature is once not a number",
        "hang": "the server answers nothing for ARG (5) seconds, its connections stay open",
        "typechange": "Temperature is once a String",
    }

    def __init__(self, options: Options, *, port: int = 0) -> None:
        super().__init__(options)
        self._port = port
        self._server = Server()
        self._nodes: dict[str, Node] = {}
        self._kinds = dict(_TYPES)
        self._presence = Presence()
        self._now: dict[str, Scalar] = {
            "Temperature": 20.0, "Setpoint": 650.0, "HeaterPower": 12.5, "Stable": False, "Program": "sinter-650", "Step": 0,
        }  # fmt: skip

    async def open(self) -> Mapping[str, Any]:
        """Start the server with its initial values."""
        logging.getLogger("asyncua").setLevel(logging.ERROR)
        port = self._port or hold_port()
        endpoint = f"opc.tcp://{LOOPBACK}:{port}/furnace"
        await self._server.init()
        self._server.set_endpoint(endpoint)
        self._server.set_server_name("Simulated furnace")
        self._server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        await self._server.set_application_uri(f"{NAMESPACE}:server")
        index = await self._server.register_namespace(NAMESPACE)
        furnace = await self._server.nodes.objects.add_object(ua.NodeId("Furnace", index), f"{index}:Furnace")
        for stream, kind in _TYPES.items():
            value = ua.Variant(self._now[stream], kind)
            self._nodes[stream] = await furnace.add_variable(ua.NodeId(stream, index), f"{index}:{stream}", value)
        for stream, unit, top in (("Temperature", CELSIUS, TOP), ("Setpoint", CELSIUS, TOP), ("HeaterPower", PERCENT, 100.0)):
            await self._describe(stream, unit, top)
        for stream, value in self._now.items():
            t = self.truth.now()
            self.truth.initial(stream, t, value)
            await self._write(stream, t, value)
        self._server.subscribe_server_callback(CallbackType.ItemSubscriptionCreated, self._subscribed)
        try:
            await self._server.start()
        except OSError as e:
            raise StartError(f"cannot listen on port {port} ({e}); choose another --port or leave it out") from e
        nodes = {stream: node.nodeid.to_string() for stream, node in self._nodes.items()}
        return {"endpoint": endpoint, "namespace": NAMESPACE, "nodes": nodes}

    async def client_present(self) -> None:
        """Return when a client has made its subscriptions."""
        await self._presence.settled()

    async def tick(self) -> None:
        """Heat on: Temperature, HeaterPower and Step always change, Setpoint and Stable now and then."""
        step = int(self._now["Step"]) + 1
        if step % HOLD_TICKS == 0:
            await self._send("Setpoint", round(float(self.rng.uniform(300, 1100)), 0))
        setpoint = float(self._now["Setpoint"])
        gap = setpoint - float(self._now["Temperature"])
        temperature = float(self._now["Temperature"]) + 0.08 * gap + float(self.rng.normal(0, 0.3))
        await self._send("Temperature", self._other("Temperature", round(temperature, 2), 0.01))
        power = min(95.0, max(5.0, 10 + setpoint / 20 + gap / 8 + float(self.rng.normal(0, 0.2))))
        await self._send("HeaterPower", self._other("HeaterPower", round(power, 1), 0.1))
        await self._send("Step", step)
        await self._send("Stable", abs(gap) < STABLE_WITHIN)

    async def inject(self, fault: Fault, at: float) -> None:
        """Do to Temperature or to the whole server what `faults` says."""
        self.truth.fault(fault.kind, at, fault.arg)
        before = self._now["Temperature"]
        if fault.kind == "nan":
            await self._send("Temperature", float("nan"))
        elif fault.kind == "typechange":
            await self._send("Temperature", "HOT", ua.VariantType.String)
        else:
            time.sleep(fault.number(5))  # noqa: ASYNC251 - a stalled process with open sockets is what is wanted
        self._now["Temperature"] = before

    async def command(self, words: Sequence[str]) -> Mapping[str, Any]:
        """Obey `set Setpoint CELSIUS` and `set Program NAME`."""
        match words:
            case ["set", "Setpoint", number]:
                value: Scalar = _celsius(number)
            case ["set", "Program", value]:
                pass
            case _:
                raise CommandError("the furnace knows: go, stop, quit, set Setpoint CELSIUS, set Program NAME")
        await self._send(words[1], value)
        return {"stream": words[1], "sent": self.truth.sent.get(words[1], 0)}

    async def close(self) -> None:
        """Stop the server."""
        if self._server.bserver is not None:
            await self._server.stop()

    async def _describe(self, stream: str, unit: tuple[str, str, int], top: float) -> None:
        sign, long_name, code = unit
        index = self._nodes[stream].nodeid.NamespaceIndex
        information = ua.EUInformation(UNECE, code, ua.LocalizedText(sign), ua.LocalizedText(long_name))
        for name, value in (("EngineeringUnits", information), ("EURange", ua.Range(0.0, top))):
            node_id = ua.NodeId(f"{stream}.{name}", index)
            await self._nodes[stream].add_property(node_id, ua.QualifiedName(name, 0), value)

    async def _send(self, stream: str, value: Scalar, kind: ua.VariantType | None = None) -> None:
        """Count and write a value, unless it is what the node has already: a server reports no such write."""
        if value == self._now[stream] and kind is None:
            return
        t = self.truth.now()
        self.truth.item(stream, t, v=value)
        self._now[stream] = value
        await self._write(stream, t, value, kind)

    async def _write(self, stream: str, t: int, value: Scalar, kind: ua.VariantType | None = None) -> None:
        source = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=t // 1000)
        server = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=self.truth.now() // 1000)
        kind = kind or _TYPES[stream]
        data = ua.DataValue(ua.Variant(value, kind), SourceTimestamp=source, ServerTimestamp=server)
        node_id = self._nodes[stream].nodeid
        if kind != self._kinds[stream]:
            # The server refuses a value of another type, but not over a value that comes from a callback.
            self._server.set_attribute_value_callback(node_id, lambda _node, _attribute: data)
            self._kinds[stream] = kind
        await self._server.write_attribute_value(node_id, data)

    def _other(self, stream: str, value: float, step: float) -> float:
        return value if value != self._now[stream] else round(value + step, 4)

    async def _subscribed(self, _event: object, _service: object) -> None:
        self._presence.seen()


def _celsius(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= TOP:
        raise CommandError(f"{text!r} is no temperature from 0 to {TOP:g} degree Celsius; write for example: set Setpoint 650")
    return value
