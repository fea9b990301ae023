"""Where things are: the META objects and DSDs of a segment (docs/layout.md). Pure: streams and runs in, objects out.

A segment holds either one frame stream or the row streams of a run. Each stream is a group below ``/entry/instrument/<instrument>``:
frames are ``data`` with one companion column a frame; rows are ``value`` with its columns. Times are int64 UTC ns, kept apart by
where they were read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from edge_agent.codec import Decoder, decoder
from edge_agent.model import NO_SEQ, Kind, RunContext, Stream
from edge_agent.seal.dsd import Counter, Dsd
from edge_agent.seal.leaf import GapLeaf
from edge_agent.seal.meta import DatasetMeta, GroupMeta, MetaObject, SoftLink, Value
from edge_agent.segment import hdf5, nexus, types
from edge_agent.segment.types import integer, text

CREATOR = "edge-agent"
LAYOUT = "edge-agent/1-draft"
ROW_CHUNK = 4096
"""Rows of a chunk. Each chunk costs a leaf and a place in HDF5's index, whatever it holds; few rows compress to few bytes."""
ROW_CODEC = "shuffle-zstd"
FRAME_CODEC = "bitshuffle-lz4"
MAX_CHUNKS = 16_384
"""Chunks per dataset and segment: HDF5's B-tree look-ups grow with it."""

Objects = dict[str, MetaObject]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: dataset name, dtype, shape of an item, attributes."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    attributes: Mapping[str, Value] | None = None


@dataclass(frozen=True, slots=True)
class TableLayout:
    """Columns that grow together, ``chunk`` rows a chunk; ``dsds`` in the order of ``columns``."""

    group: str
    columns: tuple[Column, ...]
    dsds: tuple[Dsd, ...]
    codec: str
    chunk: int = ROW_CHUNK


@dataclass(frozen=True, slots=True)
class StreamLayout:
    """All that a stream adds to a segment: its objects, its table, and for frames the DSD of ``data``."""

    objects: Objects
    table: TableLayout
    data: Dsd | None = None
    codec: str = ROW_CODEC


def iso(ns: int) -> str:
    """ISO 8601 with microseconds and Z."""
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def entry_objects(run: RunContext, site: str, ordinal: int, series: str, record: str) -> Objects:
    """Everything of a segment that does not belong to a stream. ``record`` is the run record as canonical JSON."""
    entry: Objects = {
        "/": GroupMeta({"NX_class": text("NXroot"), "default": text("entry"), "creator": text(CREATOR)}),
        "/entry": GroupMeta(
            {
                "NX_class": text("NXentry"),
                "default": text("data"),
                "layout": text(LAYOUT),
                "series": text(series),
                "ordinal": integer(ordinal),
            }
        ),
        "/entry/instrument": GroupMeta({"NX_class": text("NXinstrument")}),
        "/entry/instrument/name": small(text(site)),
    }
    facts = {
        "entry_identifier": run.name, "entry_identifier_uuid": run.run_id.hex(),
        "experiment_identifier": run.project, "title": run.title or run.name,
        "start_time": iso(run.started_ns), "program_name": CREATOR, "collection_identifier": run.group,
    }  # fmt: skip
    entry |= {f"/entry/{name}": small(text(value)) for name, value in facts.items()}
    entry["/entry/policy"] = GroupMeta({"NX_class": text("NXcollection")})
    entry["/entry/policy/access"] = small(text(run.label.access.value))
    entry["/entry/policy/allowed"] = small(types.texts(sorted(run.label.allowed)))
    return entry | nexus.record_objects(record, series)


def closing_objects(ended_ns: int, outcome: str) -> Objects:
    """What is known only at the end."""
    return {"/entry/end_time": small(text(iso(ended_ns))), "/entry/outcome": small(text(outcome))}


def codec_of(stream: Stream) -> str:
    """The codec of a stream: the configured one where it fits its kind (bitshuffle is for frames), else the default of the kind."""
    if stream.kind is Kind.FILES:
        return "none"
    if stream.kind is Kind.FRAMES:
        return stream.codec or FRAME_CODEC
    return stream.codec if stream.codec in (ROW_CODEC, "none") else ROW_CODEC


def stream_group(stream: Stream) -> str:
    """Path of the group of a stream."""
    return f"/entry/instrument/{stream.instrument}/{stream.name}"


def stream_layout(stream: Stream, *, default: bool) -> StreamLayout:
    """Objects of one stream; ``default`` makes it what a viewer plots first."""
    return _frames(stream, default=default) if stream.kind is Kind.FRAMES else _rows(stream, default=default)


def _frames(stream: Stream, *, default: bool) -> StreamLayout:
    group = stream_group(stream)
    codec = codec_of(stream)
    number = Column("frame_number", "<u8", attributes={"long_name": text("frame number of the source"), "units": text("count")})
    objects = _group_objects(
        stream,
        "NXdetector",
        {
            "NX_class": text("NXdata"), "signal": text("data"), "axes": types.texts(["frame_number"] + ["."] * len(stream.shape)),
            "target": text(group),
        },
    )
    dsd = _dsd(f"{group}/data", np.dtype(stream.dtype), (1, *stream.shape), decoder(codec), stream.key, Counter.FRAME, stream.step)
    unit = stream.unit or "count"
    objects[f"{group}/data"] = DatasetMeta(dsd.type, {"units": text(unit), "long_name": text(stream.key), "target": text(dsd.path)})
    table = table_layout(group, (number, *common_columns()), ROW_CODEC, stream.key, objects)
    if default:
        objects["/entry/data"] = SoftLink(group)
    return StreamLayout(objects, table, dsd, codec)


def _rows(stream: Stream, *, default: bool) -> StreamLayout:
    group = stream_group(stream)
    value = Column("value", stream.dtype, stream.shape, {"units": text(unit_of(stream)), "long_name": text(stream.key)})
    columns: tuple[Column, ...] = (value, *common_columns())
    if stream.counted:
        columns = (*columns, SEQUENCE)
    objects = _group_objects(stream, "NXcollection", {"NX_class": text("NXlog")})
    table = table_layout(group, columns, codec_of(stream), stream.key, objects)
    return StreamLayout(plotted_first(group, objects) if default else objects, table)


def unit_of(stream: Stream) -> str:
    """The unit of a row stream; texts have none."""
    return stream.unit or ("" if np.dtype(stream.dtype).kind == "S" else "dimensionless")


def plotted_first(group: str, objects: Objects) -> Objects:
    """With the default plot of a segment of rows: ``value`` over ``time_arrival`` of one group of ``objects``.

    NeXus has the path of what is linked in an attribute ``target`` of it.
    """
    made = dict(objects)
    made["/entry/data"] = GroupMeta({"NX_class": text("NXdata"), "signal": text("value"), "axes": types.texts(["time_arrival"])})
    for name in ("value", "time_arrival"):
        path, column = f"{group}/{name}", objects[f"{group}/{name}"]
        assert isinstance(column, DatasetMeta)  # noqa: S101 - by table_layout
        made[path] = DatasetMeta(column.type, {**column.attributes, "target": text(path)})
        made[f"/entry/data/{name}"] = SoftLink(path)
    return made


def _group_objects(stream: Stream, parent_class: str, attributes: dict[str, Value]) -> Objects:
    facts = {
        **attributes, "source_uri": text(stream.source_uri), "source_type": text(stream.source_type), "source_id": text(stream.key),
        "transport": text(stream.transport), "counted": integer(int(stream.counted)), "step": integer(stream.step),
    }  # fmt: skip
    # What the source says of itself never replaces what the agent says of the source.
    facts = {f"source_{name}": types.of(value) for name, value in stream.attributes.items()} | facts
    parent = f"/entry/instrument/{stream.instrument}"
    return {parent: GroupMeta({"NX_class": text(parent_class)}), stream_group(stream): GroupMeta(facts)}


def common_columns() -> tuple[Column, ...]:
    """What stands beside every frame and every row: three times, valid, status."""
    start = {"units": text("ns"), "start": text("1970-01-01T00:00:00Z")}
    missing = {**start, "missing": integer(-(2**63))}
    return (
        Column("time", "<i8", attributes={**missing, "origin": text("source")}),
        Column("time_server", "<i8", attributes={**missing, "origin": text("server")}),
        Column("time_arrival", "<i8", attributes={**start, "origin": text("arrival")}),
        Column("valid", "|u1", attributes={"units": text(""), "meaning": text("0 bad, 1 good, 2 good: last known value, not an event")}),
        Column("status", "<u4", attributes={"units": text(""), "meaning": text("the protocol's own status code")}),
    )


SEQUENCE = Column("sequence", "<u8", attributes={"units": text("count")})
"""The source's own number of a row, where it counts."""


def table_layout(group: str, columns: tuple[Column, ...], codec: str, source_id: str, objects: Objects) -> TableLayout:
    """Columns below ``group`` that grow together; their META objects are added to ``objects``."""
    # Large items (waveforms) get fewer rows a chunk, so that a chunk stays near a megabyte.
    size = max(np.dtype(c.dtype).itemsize * int(np.prod(c.shape, dtype=np.int64)) for c in columns)
    chunk = max(1, min(ROW_CHUNK, (1 << 20) // max(1, size)))
    made = decoder(codec)
    dsds = tuple(_dsd(f"{group}/{c.name}", np.dtype(c.dtype), (chunk, *c.shape), made, source_id, Counter.NONE, 1) for c in columns)
    for column, dsd in zip(columns, dsds, strict=True):
        objects[dsd.path] = DatasetMeta(dsd.type, column.attributes or {})
    return TableLayout(group, columns, dsds, codec, chunk)


def _dsd(path: str, dtype: np.dtype[np.generic], chunk: tuple[int, ...], codec: Decoder, source: str, counter: Counter, step: int) -> Dsd:
    kind = types.dtype_grammar(dtype)
    filters = tuple((f.id, f.flags, f.values) for f in codec.filters(dtype, chunk))
    return Dsd(path, kind, chunk, (None, *chunk[1:]), filters, hdf5.zeros(kind), source, counter, step)


def gap_objects(group: str, gaps: Sequence[GapLeaf]) -> Objects:
    """``gaps`` below a stream's group: one row a gap; NO_SEQ and -1 stand for "not known"."""
    base = f"{group}/gaps"
    ns = {"units": text("ns"), "start": text("1970-01-01T00:00:00Z")}
    count = {"units": text("count"), "unknown": integer(-1)}

    def numbers(values: Iterable[int | None]) -> Value:
        return types.array(np.array([NO_SEQ if v is None else v for v in values], dtype="<u8"))

    return {
        base: GroupMeta({"NX_class": text("NXcollection")}),
        f"{base}/first": small(numbers(g.first for g in gaps), {"units": text("count")}),
        f"{base}/last": small(numbers(g.last for g in gaps), {"units": text("count")}),
        f"{base}/count": small(types.array(np.array([-1 if g.count is None else g.count for g in gaps], dtype="<i8")), count),
        f"{base}/time_from": small(types.array(np.array([g.t_from for g in gaps], dtype="<i8")), ns),
        f"{base}/time_to": small(types.array(np.array([g.t_to for g in gaps], dtype="<i8")), ns),
        f"{base}/cause": small(types.texts([g.cause for g in gaps])),
        f"{base}/detail": small(types.texts([g.detail for g in gaps])),
    }


def small(value: Value, attributes: Mapping[str, Value] | None = None) -> DatasetMeta:
    """A dataset that is not chunked."""
    return DatasetMeta(value.type, attributes or {}, value)
