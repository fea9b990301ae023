"""Plays back PV Access: a p4p server with the PVs of the run.

Frames are NTNDArrays with their attributes; values NTScalar, NTScalarArray or NTEnum with their alarms; tables NTTable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from p4p import Value
from p4p.nt import NTEnum, NTNDArray, NTScalar, NTTable
from p4p.server import Server
from p4p.server.thread import SharedPV

from firmware_sim.detector import client_env, server_conf
from firmware_sim.loopback import confine_datagrams
from firmware_sim.replay.landed import INITIAL, Landed
from firmware_sim.replay.part import noted, plain
from firmware_sim.replay.playable import by_source, is_alarm
from firmware_sim.truth import TruthWriter

NS = 1_000_000_000
_CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "l", "u8": "L", "f4": "f", "f8": "d", "b1": "?"}
_PIXELS = {
    "u1": "ubyteValue", "i1": "byteValue", "u2": "ushortValue", "i2": "shortValue", "u4": "uintValue", "i4": "intValue", "u8": "ulongValue",
    "i8": "longValue", "f4": "floatValue", "f8": "doubleValue",
}  # fmt: skip


class Source(Protocol):
    """What one PV shows."""

    def before(self, t: int) -> Value:
        """What it shows before the first item; ``t`` UTC ns."""

    def at(self, stream: Landed, row: int, t: int) -> tuple[dict[str, Any], Value | None]:
        """What the truth says of an item, and what is posted of it, if anything: some items go with others."""


class PvaPart:
    """One server for all PVs of the run."""

    def __init__(self, streams: Sequence[Landed], truth: TruthWriter) -> None:
        self._truth = truth
        self._streams = by_source(streams)
        self._sources: dict[str, Source] = {}
        self._pvs: dict[str, SharedPV] = {}
        self._pv_of = {stream.key: pv for pv, some in self._streams.items() for stream in some}
        self._server: Server | None = None

    async def open(self) -> Mapping[str, Any]:
        """See `Part`."""
        for pv, some in self._streams.items():
            self._sources[pv] = _source(some)
            self._pvs[pv] = SharedPV(initial=self._sources[pv].before(self._truth.now()))
        self._server = Server(providers=[dict(self._pvs)], useenv=False, conf=server_conf(0))
        confine_datagrams()
        conf = self._server.conf()
        port, broadcast_port = int(conf["EPICS_PVAS_SERVER_PORT"]), int(conf["EPICS_PVAS_BROADCAST_PORT"])
        return {"port": port, "env": client_env(port, broadcast_port), "pv": dict(self._pv_of)}

    async def show(self, stream: Landed, row: int) -> None:
        """See `Part`."""
        t, pv = self._truth.now(), self._pv_of[stream.key]
        said, value = self._sources[pv].at(stream, row, t)
        self._truth.item(stream.key, t, **said)
        if value is not None:
            self._pvs[pv].post(value)

    async def settle(self) -> None:
        """A value that was posted is there."""

    async def close(self) -> None:
        """See `Part`."""
        if self._server is not None:
            self._server.stop()


def _source(streams: Sequence[Landed]) -> Source:
    main = streams[0]
    if main.kind == "frames":
        return _Image(main, streams[1:])
    return _Table(streams) if "NTTable" in main.source_type else _Scalar(main)


class _Scalar:
    """A value with its alarm. An alarm that changed with a value goes with it; one that changed alone is posted alone."""

    def __init__(self, stream: Landed) -> None:
        values = stream.columns["value"]
        self._stream = stream
        self._measured = values.dtype.kind in "iuf"
        self._message = ""
        code = ("a" if values.ndim > 1 else "") + _CODES.get(values.dtype.str[1:], "s")
        self._type = NTEnum.buildType() if stream.states else NTScalar(code, display=self._measured).type

    def before(self, t: int) -> Value:
        """See `Source`."""
        return self._value(self._stream.before, t, 0)

    def at(self, stream: Landed, row: int, t: int) -> tuple[dict[str, Any], Value | None]:
        """See `Source`."""
        value, status = stream.columns["value"][row], int(stream.columns["status"][row])
        if not is_alarm(stream) or stream is self._stream:
            return noted(value), self._value(value, t, status)
        self._message = str(plain(value)).partition(" ")[2]
        return noted(value), Value(self._type, {"alarm": self._alarm(status), "timeStamp": _stamp(t)})

    def _alarm(self, status: int) -> dict[str, Any]:
        return {"severity": status >> 16, "status": status & 0xFFFF, "message": self._message if status else ""}

    def _value(self, value: Any, t: int, status: int) -> Value:
        fields: dict[str, Any] = {"value": value if getattr(value, "ndim", 0) else plain(value)}
        if self._stream.states:
            fields["value"] = {"index": int(value), "choices": self._stream.states}
        elif self._measured and self._stream.unit not in ("", "dimensionless"):
            fields["display"] = {"units": self._stream.unit}
        return Value(self._type, fields | {"alarm": self._alarm(status), "timeStamp": _stamp(t)})


class _Table:
    """Columns of one table; the lines that came together are one update, which goes with the first line of the first column."""

    def __init__(self, columns: Sequence[Landed]) -> None:
        self._columns = columns
        self._names = [stream.name.rpartition(".")[2] for stream in columns]
        codes = [_CODES.get(stream.columns["value"].dtype.str[1:], "s") for stream in columns]
        self._wrap = NTTable(list(zip(self._names, codes, strict=True)))
        arrival = columns[0].columns["time_arrival"]
        self._begins = np.flatnonzero(np.concatenate([[True], np.diff(arrival) != 0])).tolist()
        self._ends = dict(zip(self._begins, [*self._begins[1:], len(arrival)], strict=True))

    def before(self, t: int) -> Value:
        """See `Source`."""
        known = self._columns[0].columns["valid"] == INITIAL
        return self._table(0, self._ends[0] if known[0] else 0, t)

    def at(self, stream: Landed, row: int, t: int) -> tuple[dict[str, Any], Value | None]:
        """See `Source`."""
        posted = stream is self._columns[0] and row in self._ends
        return noted(stream.columns["value"][row]), self._table(row, self._ends[row], t) if posted else None

    def _table(self, begin: int, end: int, t: int) -> Value:
        lines = zip(*([plain(value) for value in stream.columns["value"][begin:end]] for stream in self._columns), strict=False)
        table = self._wrap.wrap([dict(zip(self._names, line, strict=True)) for line in lines])
        table["timeStamp"] = _stamp(t)
        return table


class _Image:
    """Frames with the attributes that they had."""

    def __init__(self, stream: Landed, attributes: Sequence[Landed]) -> None:
        self._type = NTNDArray.buildType()
        self._frames = stream.each_frame()
        self._numbers = stream.columns["frame_number"]
        self._prefix = f"{stream.name}."
        self._attributes = {one.key: self._attribute(one, one.before) for one in attributes}

    def before(self, t: int) -> Value:
        """See `Source`."""
        return Value(self._type, {})

    def at(self, stream: Landed, row: int, t: int) -> tuple[dict[str, Any], Value | None]:
        """See `Source`."""
        if stream.key in self._attributes:
            value = stream.columns["value"][row]
            self._attributes[stream.key] = self._attribute(stream, value)
            return noted(value), None
        frame, number = next(self._frames), int(self._numbers[row]) & 0x7FFFFFFF
        said = {"sha256": hashlib.sha256(frame.tobytes()).hexdigest(), "shape": frame.shape, "dtype": frame.dtype.name, "unique_id": number}
        return said, Value(self._type, {**_nd_array(frame, number, t), "attribute": list(self._attributes.values())})

    def _attribute(self, stream: Landed, value: Any) -> dict[str, Any]:
        said = stream.attributes
        return {
            "name": stream.name.removeprefix(self._prefix), "value": plain(value), "descriptor": str(said.get("source_description", "")),
            "sourceType": 0, "source": str(said.get("source_attribute_source", "")),
        }  # fmt: skip


def _stamp(t: int) -> dict[str, int]:
    return {"secondsPastEpoch": t // NS, "nanoseconds": t % NS}


def _nd_array(frame: Any, number: int, t: int) -> dict[str, Any]:
    stamp = _stamp(t)
    return {
        "value": (_PIXELS[frame.dtype.str[1:]], frame.ravel()),
        "compressedSize": frame.nbytes,
        "uncompressedSize": frame.nbytes,
        "uniqueId": number,
        "timeStamp": stamp,
        "dataTimeStamp": stamp,
        "dimension": [{"size": size, "offset": 0, "fullSize": size, "binning": 1, "reverse": False} for size in reversed(frame.shape)],
    }
