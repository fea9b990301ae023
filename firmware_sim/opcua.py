"""What instruments behind an OPC-UA server (asyncua) have in common: the server, the writing of values, and the faults.

Invariants: two successive values of a node differ, since OPC-UA reports changes only; every value carries an explicit
SourceTimestamp equal to the truth (multiples of 1 us, so of OPC-UA's 100 ns too).
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

from asyncua import Node, Server, ua
from asyncua.common.callback import CallbackType

from firmware_sim.certificates import Certificate, make_certificate
from firmware_sim.faults import Fault
from firmware_sim.instrument import Instrument, Options, Presence, StartError
from firmware_sim.loopback import LOOPBACK, hold_port
from firmware_sim.truth import Protocol, Scalar

UNECE: Final = "http://www.opcfoundation.org/UA/units/un/cefact"
CELSIUS: Final = ("°C", "degree Celsius", 4408652)  # UN/CEFACT code CEL, as OPC 10000-8 makes a number of it
PERCENT: Final = ("%", "percent", 20529)  # P1

SERVER_FAULTS: Final[Mapping[str, str]] = {
    "disconnect": "all connections are cut",
    "hang": "the server answers nothing for ARG (5) seconds, its connections stay open",
    "garbage": "ARG (64) bytes of noise in each connection",
    "partial": "each connection gets the beginning of a message whose rest never comes",
    "clockstep": "the source clock is set by ARG (3600) seconds, back with a minus",
    "certificate": "the server shows a new certificate and cuts its connections (only with --secure)",
}
MESSAGE_HEAD: Final = b"MSGF" + (4096).to_bytes(4, "little")
"""Type, last chunk, size (OPC 10000-6, 7.1.2.2) of a message of which 8 bytes are sent."""


class OpcUaInstrument(Instrument):
    """A device behind an OPC-UA server. `kinds` are its streams with their types, `now` their present values."""

    protocol: ClassVar[Protocol] = "opcua"
    namespace: ClassVar[str]
    path: ClassVar[str]
    """Path of the endpoint."""
    kinds: ClassVar[Mapping[str, ua.VariantType]]

    def __init__(self, options: Options, *, port: int = 0, secure: bool = False) -> None:
        if not secure and any(fault.kind == "certificate" for fault in options.faults):
            raise StartError("a server without security shows no certificate; give --secure to use the fault certificate")
        super().__init__(options)
        self._port = port
        self._secure = secure
        self._server = Server()
        self.nodes: dict[str, Node] = {}
        self._kinds = dict(self.kinds)
        self._presence = Presence()
        self.now: dict[str, Scalar] = self.at_start()
        self._certificate: Certificate | None = None

    @abstractmethod
    def at_start(self) -> dict[str, Scalar]:
        """The values before production."""

    @abstractmethod
    async def populate(self, server: Server) -> Mapping[str, Node]:
        """Make the address space; returns the node of each stream."""

    async def open(self) -> Mapping[str, Any]:
        """Start the server with its initial values."""
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)
        port = self._port or hold_port()
        endpoint = f"opc.tcp://{LOOPBACK}:{port}/{self.path}"
        server = self._server
        await server.init()
        server.set_endpoint(endpoint)
        server.set_server_name(self.model)
        await server.set_application_uri(f"{self.namespace}:server")
        kinds = [ua.SecurityPolicyType.NoSecurity]
        if self._secure:
            kinds = [ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt, ua.SecurityPolicyType.Aes256Sha256RsaPss_SignAndEncrypt]
            await self._certify()
        server.set_security_policy(kinds)
        self.nodes = dict(await self.populate(server))
        for stream, value in self.now.items():
            t = self.truth.now()
            self.truth.initial(stream, t, value)
            await self._write(stream, t, value)
        server.subscribe_server_callback(CallbackType.ItemSubscriptionCreated, self._subscribed)
        try:
            await server.start()
        except OSError as e:
            raise StartError(f"cannot listen on port {port} ({e}); choose another --port or leave it out") from e
        nodes = {stream: node.nodeid.to_string() for stream, node in self.nodes.items()}
        shown = {"fingerprint": self._certificate.fingerprint} if self._certificate else {}
        return {"endpoint": endpoint, "namespace": self.namespace, "nodes": nodes, **shown}

    async def client_present(self) -> None:
        """Return when a client has made its subscriptions."""
        await self._presence.settled()

    @property
    def random_kinds(self) -> tuple[str, ...]:
        """All kinds; without security there is no certificate."""
        return tuple(kind for kind in self.faults if self._secure or kind != "certificate")

    async def inject(self, fault: Fault, at: float) -> None:
        """Do to the main stream or to the whole server what `faults` says."""
        main, before = self.main_stream, self.now[self.main_stream]
        details: dict[str, Any] = {}
        if fault.kind == "certificate":
            await self._certify()
            self._reissue()
            details = {"fingerprint": self._certificate.fingerprint if self._certificate else ""}
        self.truth.fault(fault.kind, at, fault.arg, **details)
        match fault.kind:
            case "nan":
                await self.send(main, float("nan"))
            case "typechange":
                await self.send(main, "HOT", ua.VariantType.String)
            case "reorder":
                late, early = self.truth.now(), self.truth.now()
                for t, value in ((early, float(before) + 0.5), (late, float(before) + 0.25)):
                    self.truth.item(main, t, v=value)
                    await self._write(main, t, value)
            case "hang":
                time.sleep(fault.number(5))  # noqa: ASYNC251 - a stalled process with open sockets is what is wanted
            case "clockstep":
                self.step_clock(fault)
            case "garbage":
                self._to_each(self.rng.integers(0, 256, int(fault.number(64)), dtype="u1").tobytes())
            case "partial":
                self._to_each(MESSAGE_HEAD)
            case "disconnect" | "certificate":
                self._cut()
        self.now[main] = before

    async def close(self) -> None:
        """Stop the server."""
        if self._server.bserver is not None:
            await self._server.stop()

    async def describe(self, stream: str, unit: tuple[str, str, int], low: float, high: float) -> None:
        """Give a node its EngineeringUnits and EURange (OPC 10000-8)."""
        sign, long_name, code = unit
        node = self.nodes[stream]
        information = ua.EUInformation(UNECE, code, ua.LocalizedText(sign), ua.LocalizedText(long_name))
        for name, value in (("EngineeringUnits", information), ("EURange", ua.Range(low, high))):
            node_id = ua.NodeId(f"{node.nodeid.Identifier}.{name}", node.nodeid.NamespaceIndex)
            await node.add_property(node_id, ua.QualifiedName(name, 0), value)

    async def send(self, stream: str, value: Scalar, kind: ua.VariantType | None = None) -> None:
        """Count and write a value, unless it is what the node has already: a server reports no such write."""
        if value == self.now[stream] and kind is None:
            return
        t = self.truth.now()
        self.truth.item(stream, t, v=value)
        self.now[stream] = value
        await self._write(stream, t, value, kind)

    def other(self, stream: str, value: float, step: float) -> float:
        """The value, or another one close to it when the node has it already."""
        return value if value != self.now[stream] else round(value + step, 4)

    async def _write(self, stream: str, t: int, value: Scalar, kind: ua.VariantType | None = None) -> None:
        source = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=t // 1000)
        server = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=self.truth.now() // 1000)
        kind = kind or self.kinds[stream]
        data = ua.DataValue(ua.Variant(value, kind), SourceTimestamp=source, ServerTimestamp=server)
        node_id = self.nodes[stream].nodeid
        if kind != self._kinds[stream]:
            # The server refuses a value of another type, but not over a value that comes from a callback.
            self._server.set_attribute_value_callback(node_id, lambda _node, _attribute: data)
            self._kinds[stream] = kind
        await self._server.write_attribute_value(node_id, data)

    async def _certify(self) -> None:
        self._certificate = make_certificate(f"{self.namespace}:server", self.model)
        await self._server.load_certificate(self._certificate.der, "der")
        await self._server.load_private_key(self._certificate.key, format="der")

    def _reissue(self) -> None:
        """Show the certificate that was loaded last to whoever connects from now on."""
        server, binary = self._server, self._server.bserver
        if binary is None or self._certificate is None:
            return
        for endpoint in server.iserver.endpoints:
            endpoint.ServerCertificate = self._certificate.der
        # asyncua has no way to renew a certificate of a running server; each new connection takes it from here.
        for policy in server._policies:  # noqa: SLF001
            policy.certificate = server.iserver.certificate
            policy.private_key = server.iserver.private_key

    def _to_each(self, data: bytes) -> None:
        for client in list(self._server.bserver.clients if self._server.bserver else ()):
            if client.transport is not None:
                client.transport.write(data)

    def _cut(self) -> None:
        for client in list(self._server.bserver.clients if self._server.bserver else ()):
            if client.transport is not None:
                client.transport.abort()

    async def _subscribed(self, _event: object, _service: object) -> None:
        self._presence.seen()
