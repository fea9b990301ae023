"""The structures and enumerations that a server defines, learnt from itself, and values of them taken apart.

Source: OPC 10000-3, 8.48 to 8.51 (DataTypeDefinition), 10000-6, 5.2.6. A book belongs to one connection: another server gives the same
numbers to other types, which is why the library's own registry, one for the whole process, is not used. Servers of before 1.04 have no
definitions; their structures are kept as the bytes they came in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from asyncua import ua

from adapters.opcua.binary import U4, Leaf, Reader, Undecodable, stacked
from adapters.opcua.values import DTYPES, KINDS, Form, Unusable, text_cell

DEPTH = 20
"""Deepest nesting that is followed, of types and of values."""

_ENUMERATION, _STRUCTURE, _INT32 = 29, 22, 6
_RAW = "raw"

Read = Callable[[Sequence[tuple[Any, Any]]], Awaitable[list[Any]]]
"""Reads ``(node id, attribute)`` pairs; contents, None where there is none."""
Supertypes = Callable[[Sequence[Any]], Awaitable[list[Any]]]
"""The supertype of each data type, None at the root."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    builtin: int
    data_type: Any
    rank: int
    optional: bool


@dataclass(frozen=True, slots=True)
class _Structure:
    kind: int
    fields: tuple[_Field, ...]


class TypeBook:
    """What is known of a server's data types. `learn` before the values come; `leaves` then takes them apart."""

    def __init__(self, read: Read, supertypes: Supertypes) -> None:
        self._read = read
        self._supertypes = supertypes
        self._builtin: dict[Any, int] = {}
        self._structures: dict[Any, _Structure] = {}
        self._encodings: dict[Any, _Structure] = {}
        self._states: dict[Any, dict[int, str]] = {}

    async def learn(self, data_types: Iterable[Any]) -> None:
        """Ask the server what these data types are, and of what they are made; a type it does not describe stays unknown."""
        wanted = set(data_types) - self._builtin.keys()
        for _ in range(DEPTH):
            if not wanted:
                return
            await self._find_builtins(wanted)
            own = [one for one in wanted if self._builtin[one] == _STRUCTURE or self._is_enumeration(one)]
            definitions = await self._read([(one, ua.AttributeIds.DataTypeDefinition) for one in own])
            wanted = set()
            for data_type, definition in zip(own, definitions, strict=True):
                if isinstance(definition, ua.EnumDefinition):
                    self._states[data_type] = {int(one.Value): str(one.Name) for one in definition.Fields or []}
                elif isinstance(definition, ua.StructureDefinition):
                    wanted |= {one.DataType for one in definition.Fields or []}
            await self._find_builtins(wanted)
            for data_type, definition in zip(own, definitions, strict=True):
                if isinstance(definition, ua.StructureDefinition):
                    self._complete(data_type, definition)
            wanted -= self._structures.keys() | self._states.keys()
            wanted = {one for one in wanted if self._builtin[one] == _STRUCTURE}

    def kind(self, data_type: Any) -> str:
        """The built-in type that values of a data type have, as ``Int32`` for an enumeration; empty when it can be several."""
        return KINDS.get(self._builtin.get(data_type, 0), "")

    def states(self, data_type: Any) -> dict[int, str]:
        """The names of an enumeration's values; empty for every other type."""
        return self._states.get(data_type, {})

    def is_enumeration(self, data_type: Any) -> bool:
        """Whether it is an enumeration, also one without a definition."""
        return self._is_enumeration(data_type)

    def leaves(self, type_id: Any, body: bytes) -> list[Leaf]:
        """The parts of a structure: path, form, value; one part ``raw`` with its bytes when its type is not known."""
        structure = self._encodings.get(type_id)
        try:
            if structure is not None and structure.kind <= 2:
                return self._fields(structure, Reader(body, 0, self), 0)
            if type_id.NamespaceIndex == 0 and type_id in ua.extension_objects_by_typeid:
                kind = ua.extension_objects_by_typeid[type_id]
                return _of_library(Reader(body).by_library(lambda data: ua.ua_binary.from_binary(kind, data)))
        except Undecodable as e:
            raise Unusable(f"a structure of type {type_id.to_string()} is not what the server says it is: {e}") from e
        return [_raw(body)]

    def _complete(self, data_type: Any, definition: Any) -> None:
        found = []
        for one in definition.Fields or []:
            builtin = self._builtin.get(one.DataType, 0)
            found.append(_Field(_part_name(one.Name), builtin, one.DataType, int(one.ValueRank), bool(one.IsOptional)))
        self._structures[data_type] = structure = _Structure(int(definition.StructureType), tuple(found))
        self._encodings[definition.DefaultEncodingId] = structure

    def _is_enumeration(self, data_type: Any) -> bool:
        return self._builtin.get(data_type) == _INT32 and not (data_type.NamespaceIndex == 0 and data_type.Identifier == _INT32)

    async def _find_builtins(self, data_types: Iterable[Any]) -> None:
        """Follow the supertypes up to a type that values are written as."""
        ways = {one: [one] for one in data_types if one not in self._builtin}
        for _ in range(DEPTH):
            open_ways = []
            for one, way in ways.items():
                number = _builtin_number(way[-1])
                if number is None and way[-1] in self._builtin:
                    number = self._builtin[way[-1]]
                if number is None:
                    open_ways.append(one)
                else:
                    self._builtin.update(dict.fromkeys(way, number))
            ways = {one: ways[one] for one in open_ways}
            if not ways:
                return
            above = await self._supertypes([way[-1] for way in ways.values()])
            for one, parent in zip(list(ways), above, strict=True):
                if parent is None:
                    self._builtin[one] = 0
                    del ways[one]
                else:
                    ways[one].append(parent)
        self._builtin.update(dict.fromkeys(ways, 0))

    def _fields(self, structure: _Structure, reader: Reader, depth: int) -> list[Leaf]:
        if depth > DEPTH:
            raise Unusable("a structure is nested too deeply")
        present = structure.fields
        if structure.kind == 1:
            mask, optional = int(reader.number(U4)), [one for one in structure.fields if one.optional]
            absent = {one.name for i, one in enumerate(optional) if not mask >> i & 1}
            present = tuple(one for one in structure.fields if one.name not in absent)
        elif structure.kind == 2:
            chosen = int(reader.number(U4))
            present = structure.fields[chosen - 1 : chosen] if chosen else ()
        found: list[Leaf] = []
        for one in present:
            found += [
                (f"{one.name}.{path}" if path else one.name, form, value, cut) for path, form, value, cut in self._field(one, reader, depth)
            ]
        return found

    def _field(self, one: _Field, reader: Reader, depth: int) -> list[Leaf]:
        if one.rank < 1:
            return self._single(one, reader, depth)
        dimensions = reader.dimensions() if one.rank > 1 else [reader.length()]
        n = int(np.prod([max(0, length) for length in dimensions]))
        if n > len(reader.data):
            raise Undecodable(f"a field of {n} elements in {len(reader.data)} bytes")
        if one.data_type in self._structures or one.builtin in (0, _STRUCTURE, 24):
            leaves = stacked([self._single(one, reader, depth) for _ in range(n)])
        else:
            leaves = reader.array(one.builtin, KINDS[one.builtin], n)
        shape = tuple(max(0, length) for length in dimensions)
        return [(path, Form(f.kind, f.dtype, (*shape, *f.shape[1:])), v.reshape(*shape, *f.shape[1:]), cut) for path, f, v, cut in leaves]

    def _single(self, one: _Field, reader: Reader, depth: int) -> list[Leaf]:
        structure = self._structures.get(one.data_type)
        if structure is not None:
            return self._fields(structure, reader, depth + 1)
        if one.builtin in (0, 24):
            return reader.variant()
        return reader.scalar(one.builtin, KINDS[one.builtin])


def _builtin_number(data_type: Any) -> int | None:
    """Number of the built-in type that a data type of namespace 0 stands for, None when its supertype decides, 0 when none does."""
    number = data_type.Identifier
    if data_type.NamespaceIndex != 0 or not isinstance(number, int):
        return None
    if number == _ENUMERATION:
        return _INT32
    if 1 <= number <= 23:
        return number
    return 0 if number in (24, 26, 27, 28) else None  # BaseDataType, Number, Integer, UInteger: any of several


def _of_library(value: Any, path: str = "", depth: int = 0) -> list[Leaf]:
    """The parts of a structure of the standard, which the library knows."""
    if is_dataclass(value) and not isinstance(value, (ua.LocalizedText, ua.QualifiedName, ua.NodeId, ua.StatusCode)) and depth < DEPTH:
        found: list[Leaf] = []
        for one in fields(value):
            if one.name not in ("Encoding", "TypeId", "data_type"):
                found += _of_library(getattr(value, one.name), f"{path}.{one.name}".lstrip("."), depth + 1)
        return found
    if isinstance(value, ua.StatusCode):
        return [(path, Form("StatusCode", "<u4"), np.uint32(value.value), False)]
    if isinstance(value, bool):
        return [(path, Form("Boolean", "|u1"), np.uint8(value), False)]
    if isinstance(value, int):
        return [(path, Form("Int64", "<i8"), np.int64(value), False)]
    if isinstance(value, float):
        return [(path, Form("Double", "<f8"), np.float64(value), False)]
    text = value.Text if isinstance(value, ua.LocalizedText) else value.to_string() if isinstance(value, ua.NodeId) else value
    cell, cut = text_cell("" if text is None else str(text))
    return [(path, Form("String", DTYPES["String"]), cell, cut)]


def _raw(body: bytes) -> Leaf:
    return _RAW, Form("ByteString", "|u1", (len(body),)), np.frombuffer(body, np.uint8), False


def _part_name(name: Any) -> str:
    """A field's name as part of a stream's name."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in str(name or ""))
    return kept or "_"


def enum_names(value: Any) -> dict[int, str]:
    """States by number of the property EnumStrings (array of LocalizedText) or EnumValues (array of EnumValueType)."""
    names: dict[int, str] = {}
    for i, one in enumerate(value if isinstance(value, list) else []):
        if isinstance(one, ua.EnumValueType):
            names[int(one.Value)] = str(one.DisplayName.Text or "")
        elif isinstance(one, ua.LocalizedText):
            names[i] = str(one.Text or "")
    return names
