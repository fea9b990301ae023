"""Plays back OPC-UA: a server with the nodes of the run, under their own identifiers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from asyncua import Node, Server, ua

from firmware_sim.loopback import LOOPBACK, hold_port
from firmware_sim.replay.landed import Landed, RunError
from firmware_sim.replay.part import noted, plain
from firmware_sim.truth import TruthWriter

_BY_DTYPE = {
    "b1": "Boolean", "i1": "SByte", "u1": "Byte", "i2": "Int16", "u2": "UInt16", "i4": "Int32", "u4": "UInt32", "i8": "Int64",
    "u8": "UInt64", "f4": "Float", "f8": "Double",
}  # fmt: skip


class OpcUaPart:
    """One server for all endpoints of the run."""

    def __init__(self, streams: Sequence[Landed], truth: TruthWriter) -> None:
        self._streams = streams
        self._truth = truth
        self._server = Server()
        self._nodes: dict[str, Node] = {}
        self._frames: dict[str, Iterator[Any]] = {}
        self._types: dict[str, ua.VariantType] = {}

    async def open(self) -> Mapping[str, Any]:
        """See `Part`."""
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)
        endpoint = f"opc.tcp://{LOOPBACK}:{hold_port()}/replay"
        await self._server.init()
        self._server.set_endpoint(endpoint)
        self._server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        for stream in self._streams:
            await self._add(stream)
        await self._server.start()
        return {"endpoint": endpoint, "nodes": {key: node.nodeid.to_string() for key, node in self._nodes.items()}}

    async def show(self, stream: Landed, row: int) -> None:
        """See `Part`."""
        value = next(self._frames[stream.key]) if stream.kind == "frames" else stream.columns["value"][row]
        t = self._truth.now()
        self._truth.item(stream.key, t, **noted(value))
        await self._write(stream, value, t)

    async def settle(self) -> None:
        """A value that was written is there."""

    async def close(self) -> None:
        """See `Part`."""
        if self._server.bserver is not None:
            await self._server.stop()

    async def _add(self, stream: Landed) -> None:
        node_id, index = await self._node_id(stream.uri.partition("#")[2], stream)
        begin = stream.before
        said = stream.source_type.removeprefix("opcua ")
        # Of an encoded picture (a ByteString) the run has the pixels: they are shown as a matrix.
        known = hasattr(ua.VariantType, said) and stream.kind == "rows"
        self._types[stream.key] = ua.VariantType[said if known else _BY_DTYPE.get(begin.dtype.str[1:], "String")]
        if stream.kind == "frames":
            self._frames[stream.key] = stream.each_frame()
        node = await self._server.nodes.objects.add_variable(node_id, ua.QualifiedName(stream.name, index), self._variant(stream, begin))
        self._nodes[stream.key] = node
        if stream.unit not in ("", "dimensionless"):
            information = ua.EUInformation("", 0, ua.LocalizedText(stream.unit), ua.LocalizedText(stream.unit))
            property_id = ua.NodeId(f"{stream.key}.EngineeringUnits", index)
            await node.add_property(property_id, ua.QualifiedName("EngineeringUnits", 0), information)
        if stream.kind == "frames":  # nothing is known before the first one
            nothing = ua.DataValue(StatusCode=ua.StatusCode(ua.StatusCodes.BadWaitingForInitialData))
            await self._server.write_attribute_value(node.nodeid, nothing)
        else:
            await self._write(stream, begin, self._truth.now())

    async def _node_id(self, text: str, stream: Landed) -> tuple[ua.NodeId, int]:
        """`nsu=URI;s=NAME` with the index that the namespace has here, or `ns=2;i=1` as it stands."""
        index = 0
        try:
            if text.startswith("nsu="):
                uri, _, rest = text.removeprefix("nsu=").partition(";")
                index = await self._server.register_namespace(uri)
                text = f"ns={index};{rest}"
            node_id = ua.NodeId.from_string(text)
        except (ua.UaError, ValueError) as e:
            raise RunError(f"{stream.key}: {stream.uri} names no node ({e}); leave it out with --instrument") from e
        while len(await self._server.get_namespace_array()) <= node_id.NamespaceIndex:
            await self._server.register_namespace(f"urn:firmware-sim:replay:{len(await self._server.get_namespace_array())}")
        return node_id, index or node_id.NamespaceIndex

    def _variant(self, stream: Landed, value: Any) -> ua.Variant:
        kind = self._types[stream.key]
        if getattr(value, "ndim", 0):
            return ua.Variant(value.ravel().tolist(), kind, Dimensions=list(value.shape) if value.ndim > 1 else None, is_array=True)
        shown = plain(value)
        if kind is ua.VariantType.LocalizedText:
            shown = ua.LocalizedText(str(shown))
        elif kind is ua.VariantType.Boolean:
            shown = bool(shown)
        return ua.Variant(shown, kind)

    async def _write(self, stream: Landed, value: Any, t: int) -> None:
        source = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=t // 1000)
        data = ua.DataValue(self._variant(stream, value), SourceTimestamp=source, ServerTimestamp=source)
        await self._server.write_attribute_value(self._nodes[stream.key].nodeid, data)
