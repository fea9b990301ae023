"""Tags: row streams that share tables, because thousands of groups of their own would take longer to create than a run lasts.

One table below ``/entry/tags`` for each type of value holds the rows of all its tags as they came; its column ``tag`` says whose a row is.
The list of tags stands beside the tables, a line a description: a tag that is described anew (another unit) gets another number, and
rows keep the description that they came with. Numbers hold for all segments of a run; after a crash they do so only where the last
segment can still be read (docs/layout.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

import numpy as np

from edge_agent.model import Kind, Stream
from edge_agent.seal.leaf import GapLeaf
from edge_agent.seal.meta import GroupMeta
from edge_agent.segment import layout, types
from edge_agent.segment.layout import Column, Objects, StreamLayout, small
from edge_agent.segment.types import text

GROUP = "/entry/tags"
SOURCE = "*/"
"""Source ids of tables begin like this, and with no instrument's name: rows of many sources have none of their own."""


@dataclass(frozen=True, slots=True)
class Tag:
    """One line of the list. ``table`` is the name of its table, ``attributes`` what the source says of itself, as JSON."""

    source_id: str
    table: str
    units: str
    source_uri: str
    source_type: str
    transport: str
    step: int
    attributes: str

    @property
    def counted(self) -> bool:
        """Whether the source counts its items."""
        return "counted" in self.table.split("_")

    def line(self) -> tuple[Any, ...]:
        """The fields in order."""
        return _FIELDS(self)


_FIELDS = attrgetter(*(f.name for f in fields(Tag)))
TEXTS = tuple(f.name for f in fields(Tag) if f.name != "step")


def can_share(stream: Stream) -> bool:
    """Whether the rows of a stream can stand in a table with others: single values only."""
    return stream.kind is Kind.ROWS and stream.shape == ()


def tag_of(stream: Stream) -> Tag:
    """The line that describes a stream.

    Raises:
        ValueError: a text that is none.
    """
    said = _json({name: _json_value(value) for name, value in stream.attributes.items()})
    tag = Tag(
        stream.key, _table_name(stream), layout.unit_of(stream), stream.source_uri, stream.source_type, stream.transport, stream.step,
        said,
    )  # fmt: skip
    for said_text in (tag.units, tag.source_uri, tag.source_type, tag.transport, tag.attributes):
        said_text.encode()
    return tag


def table_of(name: str, *, default: bool) -> StreamLayout:
    """The table called ``name``, for the rows of all streams whose tags name it; ``default`` makes it what a viewer plots first.

    Raises:
        SealError: its type of value is none that a file can hold.
    """
    group = f"{GROUP}/{name}"
    form, *rest = name.split("_")
    dtype = np.dtype(form).newbyteorder(">" if "big" in rest else "<")
    columns = (
        Column("value", dtype.str, (), {"units": text(""), "long_name": text("values of the tags in ../source_id, in ../units")}),
        *layout.common_columns(),
        *((layout.SEQUENCE,) if "counted" in rest else ()),
        Column("tag", "<u4", attributes={"units": text(""), "meaning": text("line of ../source_id, ../units ...")}),
    )
    objects: Objects = {
        GROUP: GroupMeta({"NX_class": text("NXcollection")}),
        group: GroupMeta({"NX_class": text("NXdata"), "signal": text("value"), "axes": types.texts(["time_arrival"])}),
    }
    table = layout.table_layout(group, columns, "none" if "none" in rest else layout.ROW_CODEC, SOURCE + name, objects)
    return StreamLayout(layout.plotted_first(group, objects) if default else objects, table)


def closing_objects(tags: Sequence[Tag], gaps: Mapping[str, Sequence[GapLeaf]]) -> Objects:
    """The list of tags and their gaps, known when the segment closes; ``gaps`` by source id."""
    missing = [gap for source in dict.fromkeys(tag.source_id for tag in tags) for gap in gaps.get(source, ())]
    owners = {f"{GROUP}/gaps/source_id": small(types.texts([gap.source_id for gap in missing]))}
    return list_objects(tags) | layout.gap_objects(GROUP, missing) | owners


def list_objects(tags: Sequence[Tag]) -> Objects:
    """The list of tags: one text or number of each line a dataset."""
    lines: Objects = {f"{GROUP}/{name}": small(types.texts([getattr(tag, name) for tag in tags])) for name in TEXTS}
    return lines | {f"{GROUP}/step": small(types.array(np.array([tag.step for tag in tags], "<i8")), {"units": text("count")})}


def _table_name(stream: Stream) -> str:
    """One table for rows that look alike in the file: type, byte order, counter, codec. `table_of` reads it."""
    dtype = np.dtype(stream.dtype)
    big = "big" if dtype.str.startswith(">") else ""
    plain = "none" if layout.codec_of(stream) == "none" else ""
    return "_".join(part for part in (dtype.str[1:], big, "counted" if stream.counted else "", plain) if part)


_json = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode


def _json_value(value: str | int | float) -> str | int | float:
    """JSON has no NaN and no infinities: they become texts."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
