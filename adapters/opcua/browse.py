"""Walks a server's address space: variables below a node by path, laboratory devices, supertypes of data types.

Source: OPC 10000-3 (references), 10000-100 (DeviceSet, Identification), 30500-1 (LADS: functional units, functions). Many nodes are
asked about at once, since a tree of a thousand nodes would else take a thousand round trips. Invariants: every node is met once,
however many ways lead to it; a walk ends, whatever the server says.
"""

from __future__ import annotations

import fnmatch
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from asyncua import ua

from adapters.opcua.services import BATCH, read

DEPTH = 16
MOST_NODES = 100_000

DI = "http://opcfoundation.org/UA/DI/"
LADS = "http://opcfoundation.org/UA/LADS/"
_DEVICE_SET = 5001
_HAS_PROPERTY = 46
_HAS_SUBTYPE = 45
_SERVER = 2253
_STRUCTURAL = ("FunctionalUnitSet", "FunctionSet", "Components")
"""Names in the path of a laboratory device's variables that say nothing of what is measured."""


@dataclass(frozen=True, slots=True)
class Child:
    """A variable and the browse names from where the walk began down to it."""

    node_id: Any
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """A laboratory device: names that it answers to, its browse name first, and its identification."""

    node_id: Any
    names: list[str]
    facts: dict[str, str | int | float]


class Browser:
    """Browses with one client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def variables(self, start: Any) -> AsyncIterator[Child]:
        """All variables below a node by hierarchy, without properties and without the server's own diagnostics."""
        seen = {start, ua.NodeId(_SERVER)}
        level: list[Child] = [Child(start, ())]
        for _ in range(DEPTH):
            below: list[Child] = []
            for parent, references in zip(level, await self._references([one.node_id for one in level]), strict=True):
                for reference in references:
                    node_id = _plain_id(reference.NodeId)
                    if node_id in seen or reference.ReferenceTypeId.Identifier == _HAS_PROPERTY or len(seen) > MOST_NODES:
                        continue
                    seen.add(node_id)
                    child = Child(node_id, (*parent.path, str(reference.BrowseName.Name)))
                    below.append(child)
                    if reference.NodeClass == ua.NodeClass.Variable:
                        yield child
            if not below:
                return
            level = below

    async def supertypes(self, data_types: Sequence[Any]) -> list[Any]:
        """The supertype of each data type, None where there is none."""
        found = await self._references(data_types, _HAS_SUBTYPE, ua.BrowseDirection.Inverse)
        return [_plain_id(references[0].NodeId) if references else None for references in found]

    async def devices(self, namespaces: Sequence[str]) -> list[Device]:
        """The devices of the server's DeviceSet."""
        if DI not in namespaces:
            return []
        (references,) = await self._references([ua.NodeId(_DEVICE_SET, namespaces.index(DI))])
        objects = [one for one in references if one.NodeClass == ua.NodeClass.Object]
        devices = []
        for one in objects:
            node_id = _plain_id(one.NodeId)
            facts = await self._identification(node_id)
            names = [str(one.BrowseName.Name), str(one.DisplayName.Text or "")]
            names += [str(facts[key]) for key in ("SerialNumber", "AssetId", "ComponentName", "DeviceClass") if facts.get(key)]
            devices.append(Device(node_id, names, facts))
        return devices

    async def _identification(self, device: Any) -> dict[str, str | int | float]:
        """What a device says of itself: its properties, and those of its Identification."""
        (references,) = await self._references([device])
        properties = [one for one in references if one.ReferenceTypeId.Identifier == _HAS_PROPERTY]
        for one in references:
            if one.BrowseName.Name == "Identification":
                (inner,) = await self._references([_plain_id(one.NodeId)])
                properties += [p for p in inner if p.NodeClass == ua.NodeClass.Variable]
        values = await read(self._client, [(_plain_id(one.NodeId), ua.AttributeIds.Value) for one in properties])
        facts: dict[str, str | int | float] = {}
        for one, value in zip(properties, values, strict=True):
            content = value.Value.Value if value.Value is not None else None
            if isinstance(content, ua.LocalizedText):
                content = content.Text
            if isinstance(content, (str, int, float)) and content != "":
                facts.setdefault(str(one.BrowseName.Name), content)
        return facts

    async def _references(self, nodes: Sequence[Any], kind: int = 33, direction: Any = ua.BrowseDirection.Forward) -> list[list[Any]]:
        """The references of a type (33: hierarchical) from each node."""
        found: list[list[Any]] = []
        for i in range(0, len(nodes), BATCH):
            parameters = ua.BrowseParameters(RequestedMaxReferencesPerNode=0)
            parameters.NodesToBrowse = [
                ua.BrowseDescription(
                    NodeId=node_id,
                    BrowseDirection=direction,
                    ReferenceTypeId=ua.NodeId(kind),
                    IncludeSubtypes=True,
                    NodeClassMask=0,
                    ResultMask=ua.BrowseResultMask.All,
                )
                for node_id in nodes[i : i + BATCH]
            ]
            for result in await self._client.uaclient.browse(parameters):
                references = list(result.References or [])
                while result.ContinuationPoint:
                    (result,) = await self._client.uaclient.browse_next(
                        ua.BrowseNextParameters(ReleaseContinuationPoints=False, ContinuationPoints=[result.ContinuationPoint])
                    )
                    references += result.References or []
                found.append(references)
        return found


def fits(path: Sequence[str], pattern: str) -> bool:
    """Whether a path fits a pattern: ``*`` and ``?`` within a name, ``[abc]``, and ``**`` for any number of names."""
    return _fits(
        list(path), [part.partition(":")[2] if part.partition(":")[0].isdigit() else part for part in pattern.strip("/").split("/")]
    )


def _fits(path: list[str], parts: list[str]) -> bool:
    if not parts:
        return not path
    if parts[0] == "**":
        return any(_fits(path[i:], parts[1:]) for i in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], parts[0]) and _fits(path[1:], parts[1:])


def folder_of(path: Sequence[str]) -> tuple[str, ...]:
    """The path of a laboratory device's variable without the sets that every such device has."""
    return tuple(name for name in path if name not in _STRUCTURAL) or tuple(path)


def _plain_id(node_id: Any) -> Any:
    return ua.NodeId(node_id.Identifier, node_id.NamespaceIndex, node_id.NodeIdType)
