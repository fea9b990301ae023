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

from adapters.opcua.binary import Value
from adapters.opcua.browse import Browser, Child, fits, folder_of
from adapters.opcua.config import NodeConfig, OpcUaConfig, is_node_id
from adapters.opcua.services import BATCH, read, read_values
from adapters.opcua.structures import TypeBook, enum_names
from adapters.opcua.values import DTYPES, Form
from edge_agent.model import Kind, Stream

_NSU = re.compile(r"nsu=(?P<uri>.+?);(?P<rest>[isgb]=.*)", re.DOTALL)
_PROPERTIES = ("EngineeringUnits", "EURange", "EnumStrings", "EnumValues", "TrueState", "FalseState")
_ATTRIBUTES = (
    ua.AttributeIds.BrowseName,
    ua.AttributeIds.Description,
    ua.AttributeIds.DataType,
    ua.AttributeIds.ValueRank,
    ua.AttributeIds.AccessLevel,
    ua.AttributeIds.Historizing,
)
_HAS_PROPERTY = 46
_HISTORY_READ = 0x04
_IMAGES = range(2000, 2004)
"""ImageBMP, ImageGIF, ImageJPG, ImagePNG: ByteStrings of namespace 0."""
_IMAGE = 30


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that the server has. ``form`` is what it announces, if that says enough.

    ``has_history``: old values can be read. ``is_image``: its values become frames.
    """

    node_id: Any
    stream: Stream
    form: Form | None
    table: NodeConfig
    has_history: bool = False
    is_image: bool = False


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

    def __init__(self, client: Any, instrument: str, config: OpcUaConfig, namespaces: Sequence[str], transport: str) -> None:
        self._client = client
        self._instrument = instrument
        self._config = config
        self._namespaces = list(namespaces)
        self._transport = transport
        self._browser = Browser(client)
        self.types = TypeBook(self._contents, self._browser.supertypes)

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

    async def below(self, folder: str | None, patterns: Sequence[str], limit: int) -> list[Variable]:
        """All variables below a folder or object that fit a pattern, by hierarchy, without properties; at most ``limit``.

        Raises:
            ValueError, ua.UaError: there is no such folder.
        """
        start = await self.resolve(folder) if folder is not None else ua.NodeId(ua.ObjectIds.ObjectsFolder)
        children = [
            child async for child in self._browser.variables(start) if not patterns or any(fits(child.path, one) for one in patterns)
        ]
        return await self._described(children[:limit])

    async def device(self, name: str, limit: int) -> tuple[list[Variable], dict[str, str | int | float]]:
        """The variables of a laboratory device (OPC 30500-1), and what it says of itself.

        Raises:
            ValueError: there is none of this name or serial number; the message names those that there are.
        """
        devices = await self._browser.devices(self._namespaces)
        chosen = next((one for one in devices if name in one.names), None)
        if chosen is None:
            known = ", ".join(one.names[0] for one in devices) or "none"
            raise ValueError(f"it has no laboratory device {name!r}; it has {known}")
        children = [replace(child, path=folder_of(child.path)) async for child in self._browser.variables(chosen.node_id)]
        return await self._described(children[:limit]), chosen.facts

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

    async def values(self, variables: Sequence[Variable]) -> list[Value]:
        """The present value of each variable."""
        return await read_values(self._client, [variable.node_id for variable in variables], self.types)

    async def _described(self, children: Sequence[Child]) -> list[Variable]:
        found = [_Found(one.node_id, NodeConfig(id=one.node_id.to_string(), name=safe_name(".".join(one.path)))) for one in children]
        return (await self._describe(found))[0]

    async def _describe(self, found: list[_Found]) -> tuple[list[Variable], list[Missing]]:
        attributes = await read(self._client, [(one.node_id, attribute) for one in found for attribute in _ATTRIBUTES])
        present: list[_Found] = []
        facts: list[list[Any]] = []
        absent: list[Missing] = []
        for i, one in enumerate(found):
            name, _, data_type, *_ = own = attributes[i * len(_ATTRIBUTES) : (i + 1) * len(_ATTRIBUTES)]
            if name.StatusCode is not None and name.StatusCode.is_bad():
                absent.append(self.missing(one.table, name.StatusCode.name))
            elif data_type.StatusCode is not None and data_type.StatusCode.is_bad():
                absent.append(self.missing(one.table, "it is there, but is no variable"))
            else:
                present.append(one)
                facts.append([_content(value) for value in own])
        properties = await self._properties([one.node_id for one in present])
        await self.types.learn(own[2] for own in facts)
        names = await self._enumerations([own[2] for own in facts])
        described = [self._variable(*parts) for parts in zip(present, facts, properties, names, strict=True)]
        return described, absent

    def _variable(self, one: _Found, own: list[Any], properties: list[Any], states: dict[int, str]) -> Variable:
        name, description, data_type, rank, access, historizing = own
        units, limits, *own_states = properties
        facts: dict[str, str | int | float] = {}
        text = getattr(description, "Text", None)
        if text:
            facts["description"] = str(text)
        if isinstance(limits, ua.Range) and all(isinstance(x, (int, float)) and math.isfinite(x) for x in (limits.Low, limits.High)):
            facts |= {"range_low": limits.Low, "range_high": limits.High}
        facts |= {f"state_{number}": state for number, state in (_states(own_states) or states).items()}
        unit = str(units.DisplayName.Text or "") if isinstance(units, ua.EUInformation) else ""
        form = self._announced(data_type, rank)
        stream = Stream(
            self._instrument,
            one.table.name or _name(one.node_id, str(name.Name)),
            Kind.ROWS,
            dtype=form.dtype if form else "<f8",
            unit=one.table.unit if one.table.unit is not None else unit,
            source_uri=self.uri(one.node_id),
            source_type=f"opcua {form.kind}" if form else "opcua",
            transport=self._transport,
            attributes=facts,
        )
        history = bool(historizing) or (isinstance(access, int) and bool(access & _HISTORY_READ))
        frames = _is_image(data_type) or one.table.pixels is not None if one.table.frames is None else one.table.frames
        return Variable(one.node_id, stream, form, one.table, history, frames)

    def _announced(self, data_type: Any, rank: Any) -> Form | None:
        """What scalars of a type become; None where only a value can tell."""
        if data_type is None or rank != ua.ValueRank.Scalar:
            return None
        kind = self.types.kind(data_type)
        dtype = DTYPES.get(kind)
        return Form(kind, dtype) if dtype and kind != "ByteString" else None

    async def _properties(self, node_ids: list[Any]) -> list[list[Any]]:
        """The contents of `_PROPERTIES` of each node, None where it has none (OPC 10000-8)."""
        paths = [_property_path(node_id, name) for node_id in node_ids for name in _PROPERTIES]
        targets: list[Any] = []
        for i in range(0, len(paths), BATCH):
            results = await self._client.uaclient.translate_browsepaths_to_nodeids(paths[i : i + BATCH])
            targets += [result.Targets[0].TargetId if result.StatusCode.is_good() and result.Targets else None for result in results]
        values = iter(await self._contents([(target, ua.AttributeIds.Value) for target in targets if target is not None]))
        contents = [None if target is None else next(values) for target in targets]
        return [contents[i : i + len(_PROPERTIES)] for i in range(0, len(contents), len(_PROPERTIES))]

    async def _enumerations(self, data_types: Sequence[Any]) -> list[dict[int, str]]:
        """The names of the values of each data type; of one without a definition, the property that names them."""
        bare = list({one for one in data_types if self.types.is_enumeration(one) and not self.types.states(one)})
        named = {one: _states(properties[2:]) for one, properties in zip(bare, await self._properties(bare), strict=True)}
        return [named.get(one) or self.types.states(one) for one in data_types]

    async def _contents(self, wanted: Sequence[tuple[Any, Any]]) -> list[Any]:
        return [_content(one) for one in await read(self._client, wanted)]


def safe_name(text: str) -> str:
    """A stream name made of an identifier: what a path cannot hold becomes ``_``."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text).lstrip("_.-")[:63] or "node"


def distinct(variables: Sequence[Variable]) -> list[Variable]:
    """The same variables, each node once, with names of their own: a name that is taken gets ``_2``, ``_3``."""
    taken: set[str] = set()
    seen: set[Any] = set()
    renamed = []
    for variable in variables:
        if variable.node_id in seen:
            continue
        seen.add(variable.node_id)
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


def _is_image(data_type: Any) -> bool:
    return data_type is not None and data_type.NamespaceIndex == 0 and (data_type.Identifier in _IMAGES or data_type.Identifier == _IMAGE)


def _states(properties: Sequence[Any]) -> dict[int, str]:
    """State names by number from EnumStrings, EnumValues, TrueState and FalseState."""
    strings, values, true, false = properties
    names = enum_names(strings) or enum_names(values)
    for number, state in ((1, true), (0, false)):
        if not names.get(number) and isinstance(state, ua.LocalizedText):
            names[number] = str(state.Text or "")
    return names


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
