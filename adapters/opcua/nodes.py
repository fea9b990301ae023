"""Finds the configured variables on a server and asks it what they are.

Invariants: namespaces are named by URI from here on, since their numbers differ from server to server and change with
restarts; what is not there is reported by name and does not keep the others from being recorded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from asyncua import ua

from adapters.opcua.config import NodeConfig, OpcUaConfig, is_node_id
from adapters.opcua.security import transport
from adapters.opcua.values import DTYPES, Form
from edge_agent.model import Kind, Stream

BATCH = 100
"""Nodes a request; many servers take no more."""

DEPTH = 12

_NSU = re.compile(r"nsu=(?P<uri>.+?);(?P<rest>[isgb]=.*)", re.DOTALL)
_PROPERTIES = ("EngineeringUnits", "EURange")
_HAS_PROPERTY = 46
_SUBTYPES = {29: "Int32", 288: "UInt32", 289: "UInt32", 290: "Double", 294: "DateTime"}
"""Enumeration, IntegerId, Counter, Duration, UtcTime: types of namespace 0 that variables often have."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that the server has. ``form`` is what it announces, if that says enough."""

    node_id: Any
    stream: Stream
    form: Form | None


@dataclass(frozen=True, slots=True)
class Missing:
    """One that it does not have."""

    table: NodeConfig
    uri: str
    why: str


@dataclass(frozen=True, slots=True)
class _Found:
    node_id: Any
    table: NodeConfig


class Directory:
    """A server's address space, as far as it concerns the configuration of one instrument."""

    def __init__(self, client: Any, instrument: str, config: OpcUaConfig, namespaces: Sequence[str]) -> None:
        self._client = client
        self._instrument = instrument
        self._config = config
        self._namespaces = list(namespaces)

    async def find(self, tables: Iterable[NodeConfig]) -> tuple[list[Variable], list[Missing]]:
        """Resolve node ids and browse paths, then read what the nodes say of themselves."""
        found: list[_Found] = []
        missing: list[Missing] = []
        for table in tables:
            try:
                found.append(_Found(await self.resolve(table.id), table))
            except (ua.UaError, ValueError) as e:
                missing.append(self.missing(table, words(e)))
        variables, absent = await self._describe(found)
        return variables, missing + absent

    async def below(self, folder: str, limit: int) -> list[Variable]:
        """All variables below a folder or object, by hierarchy, without properties; at most ``limit``."""
        start = await self.resolve(folder)
        found: list[_Found] = []
        seen = {start}
        level: list[tuple[Any, tuple[str, ...]]] = [(start, ())]
        for _ in range(DEPTH):
            below: list[tuple[Any, tuple[str, ...]]] = []
            for node_id, path in level:
                for child in await self._client.get_node(node_id).get_children_descriptions():
                    child_id = ua.NodeId(child.NodeId.Identifier, child.NodeId.NamespaceIndex, child.NodeId.NodeIdType)
                    if child_id in seen or child.ReferenceTypeId.Identifier == _HAS_PROPERTY:
                        continue
                    seen.add(child_id)
                    child_path = (*path, str(child.BrowseName.Name))
                    below.append((child_id, child_path))
                    if child.NodeClass == ua.NodeClass.Variable and len(found) < limit:
                        found.append(_Found(child_id, NodeConfig(id=child_id.to_string(), name=safe_name(".".join(child_path)))))
            if not below or len(found) >= limit:
                break
            level = below
        return (await self._describe(found))[0]

    async def resolve(self, text: str) -> Any:
        """The node id of ``nsu=URI;s=...``, ``ns=2;s=...`` or a browse path from the root; raises ValueError or ua.UaError."""
        if not is_node_id(text):
            path = text.strip("/").removeprefix("0:Root/").split("/")
            return (await self._client.nodes.root.get_child(path)).nodeid
        match = _NSU.fullmatch(text)
        if match is None:
            return ua.NodeId.from_string(text)
        if match["uri"] not in self._namespaces:
            raise ValueError(f"it does not know the namespace {match['uri']!r}; it has {', '.join(self._namespaces)}")
        return ua.NodeId.from_string(f"ns={self._namespaces.index(match['uri'])};{match['rest']}")

    def uri(self, node_id: Any) -> str:
        """``opc.tcp://host:4840#nsu=urn:maker:furnace;s=Temperature``."""
        text = str(node_id.to_string())
        index = int(node_id.NamespaceIndex)
        if index and index < len(self._namespaces):
            text = f"nsu={self._namespaces[index]};{text.partition(';')[2]}"
        return f"{self._config.endpoint}#{text}"

    def missing(self, table: NodeConfig, why: str) -> Missing:
        """One that is not there, in words."""
        return Missing(table, f"{self._config.endpoint}#{table.id}", f"{self._config.endpoint} has no variable {table.id!r}: {why}")

    async def _describe(self, found: list[_Found]) -> tuple[list[Variable], list[Missing]]:
        attributes = (ua.AttributeIds.BrowseName, ua.AttributeIds.Description, ua.AttributeIds.DataType, ua.AttributeIds.ValueRank)
        read = await self._read([(one.node_id, attribute) for one in found for attribute in attributes])
        properties = await self._properties([one.node_id for one in found])
        variables: list[Variable] = []
        absent: list[Missing] = []
        for i, one in enumerate(found):
            name, description, data_type, rank = read[4 * i : 4 * i + 4]
            if name.StatusCode is not None and name.StatusCode.is_bad():
                absent.append(self.missing(one.table, name.StatusCode.name))
                continue
            if data_type.StatusCode is not None and data_type.StatusCode.is_bad():
                absent.append(self.missing(one.table, "it is there, but is no variable"))
                continue
            units, limits = properties[i]
            facts: dict[str, str | int | float] = {}
            text = getattr(_content(description), "Text", None)
            if text:
                facts["description"] = str(text)
            if limits is not None and all(isinstance(x, (int, float)) and math.isfinite(x) for x in (limits.Low, limits.High)):
                facts |= {"range_low": limits.Low, "range_high": limits.High}
            unit = str(units.DisplayName.Text or "") if units is not None else ""
            form = _announced(_content(data_type), _content(rank))
            stream = Stream(
                self._instrument,
                one.table.name or _name(one.node_id, str(_content(name).Name)),
                Kind.ROWS,
                dtype=form.dtype if form else "<f8",
                unit=one.table.unit if one.table.unit is not None else unit,
                source_uri=self.uri(one.node_id),
                source_type=f"opcua {form.kind}" if form else "opcua",
                transport=transport(self._config),
                attributes=facts,
            )
            variables.append(Variable(one.node_id, stream, form))
        return variables, absent

    async def _properties(self, node_ids: list[Any]) -> list[tuple[Any, Any]]:
        """EUInformation and Range of each variable, None where it has none (OPC 10000-8)."""
        paths = [_property_path(node_id, name) for node_id in node_ids for name in _PROPERTIES]
        targets: list[Any] = []
        for i in range(0, len(paths), BATCH):
            results = await self._client.uaclient.translate_browsepaths_to_nodeids(paths[i : i + BATCH])
            targets += [result.Targets[0].TargetId if result.StatusCode.is_good() and result.Targets else None for result in results]
        wanted = [(target, ua.AttributeIds.Value) for target in targets if target is not None]
        values = iter(await self._read(wanted))
        contents = [None if target is None else _content(next(values)) for target in targets]
        units = [one if isinstance(one, ua.EUInformation) else None for one in contents[0::2]]
        limits = [one if isinstance(one, ua.Range) else None for one in contents[1::2]]
        return list(zip(units, limits, strict=True))

    async def _read(self, wanted: list[tuple[Any, Any]]) -> list[Any]:
        results: list[Any] = []
        for i in range(0, len(wanted), BATCH):
            parameters = ua.ReadParameters()
            for node_id, attribute in wanted[i : i + BATCH]:
                parameters.NodesToRead.append(ua.ReadValueId(NodeId=node_id, AttributeId=attribute))
            results += await self._client.uaclient.read(parameters)
        return results

    async def values(self, variables: Sequence[Variable]) -> list[Any]:
        """The DataValue of each variable, as it is now."""
        return await self._read([(variable.node_id, ua.AttributeIds.Value) for variable in variables])


def safe_name(text: str) -> str:
    """A stream name made of an identifier: what a path cannot hold becomes ``_``."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text).lstrip("_.-")[:63] or "node"


def distinct(variables: Sequence[Variable]) -> list[Variable]:
    """The same variables with names of their own: a name that is taken gets ``_2``, ``_3``."""
    taken: set[str] = set()
    renamed = []
    for variable in variables:
        name, i = variable.stream.name, 1
        while name in taken:
            i += 1
            name = f"{variable.stream.name[:59]}_{i}"
        taken.add(name)
        renamed.append(replace(variable, stream=replace(variable.stream, name=name)))
    return renamed


def _name(node_id: Any, browse_name: str) -> str:
    identifier = node_id.Identifier
    return safe_name(identifier if isinstance(identifier, str) else browse_name)


def _announced(data_type: Any, rank: Any) -> Form | None:
    if data_type is None or rank != ua.ValueRank.Scalar or data_type.NamespaceIndex != 0:
        return None
    number = data_type.Identifier
    kind = _SUBTYPES.get(number) or (ua.VariantType(number).name if isinstance(number, int) and 1 <= number <= 25 else "")
    dtype = DTYPES.get(kind)
    return Form(kind, dtype) if dtype and kind != "ByteString" else None


def _content(value: Any) -> Any:
    return value.Value.Value if value.Value is not None and (value.StatusCode is None or value.StatusCode.is_good()) else None


def _property_path(node_id: Any, name: str) -> Any:
    element = ua.RelativePathElement(
        ReferenceTypeId=ua.NodeId(_HAS_PROPERTY), IsInverse=False, IncludeSubtypes=True, TargetName=ua.QualifiedName(name, 0)
    )
    return ua.BrowsePath(StartingNode=node_id, RelativePath=ua.RelativePath(Elements=[element]))


def words(error: Exception) -> str:
    """An error in one line; of a status its name."""
    return type(error).__name__ if isinstance(error, ua.UaStatusCodeError) else str(error)
