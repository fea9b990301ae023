"""Plays back PV Access: a p4p server with the PVs of the run, frames as NTNDArray, values as NTScalar, NTScalarArray or NTEnum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from p4p import Value
from p4p.nt import NTEnum, NTNDArray, NTScalar
from p4p.server import Server
from p4p.server.thread import SharedPV

from firmware_sim.detector import client_env, server_conf
from firmware_sim.loopback import confine_datagrams
from firmware_sim.replay.landed import Landed
from firmware_sim.replay.part import noted, plain
from firmware_sim.truth import TruthWriter

NS = 1_000_000_000
_CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "l", "u8": "L", "f4": "f", "f8": "d", "b1": "?"}
_PIXELS = {
    "u1": "ubyteValue", "i1": "byteValue", "u2": "ushortValue", "i2": "shortValue", "u4": "uintValue", "i4": "intValue", "u8": "ulongValue",
    "i8": "longValue", "f4": "floatValue", "f8": "doubleValue",
}  # fmt: skip


class PvaPart:
    """One server for all PVs of the run."""

    def __init__(self, streams: Sequence[Landed], truth: TruthWriter) -> None:
        self._streams = streams
        self._truth = truth
        self._pvs: dict[str, SharedPV] = {}
        self._types: dict[str, Any] = {}
        self._frames: dict[str, Iterator[Any]] = {}
        self._server: Server | None = None

    async def open(self) -> Mapping[str, Any]:
        """See `Part`."""
        for stream in self._streams:
            if stream.kind == "frames":
                self._types[stream.key] = NTNDArray.buildType()
                self._frames[stream.key] = stream.each_frame()
                self._pvs[stream.key] = SharedPV(initial=Value(self._types[stream.key], {}))
            else:
                self._types[stream.key] = _type(stream)
                self._pvs[stream.key] = SharedPV(initial=self._value(stream, stream.before, self._truth.now()))
        names = {_pv(stream): self._pvs[stream.key] for stream in self._streams}
        self._server = Server(providers=[names], useenv=False, conf=server_conf(0))
        confine_datagrams()
        conf = self._server.conf()
        port, broadcast_port = int(conf["EPICS_PVAS_SERVER_PORT"]), int(conf["EPICS_PVAS_BROADCAST_PORT"])
        return {"port": port, "env": client_env(port, broadcast_port), "pv": {stream.key: _pv(stream) for stream in self._streams}}

    async def show(self, stream: Landed, row: int) -> None:
        """See `Part`."""
        t = self._truth.now()
        if stream.kind == "frames":
            frame = next(self._frames[stream.key])
            number = int(stream.columns["frame_number"][row]) & 0x7FFFFFFF
            digest = hashlib.sha256(frame.tobytes()).hexdigest()
            self._truth.item(stream.key, t, sha256=digest, shape=frame.shape, dtype=frame.dtype.name, unique_id=number)
            self._pvs[stream.key].post(Value(self._types[stream.key], _nd_array(frame, number, t)))
            return
        self._truth.item(stream.key, t, **noted(stream.columns["value"][row]))
        self._pvs[stream.key].post(self._value(stream, stream.columns["value"][row], t))

    async def settle(self) -> None:
        """A value that was posted is there."""

    async def close(self) -> None:
        """See `Part`."""
        if self._server is not None:
            self._server.stop()

    def _value(self, stream: Landed, value: Any, t: int) -> Value:
        shown = value if getattr(value, "ndim", 0) else plain(value)
        stamp = {"secondsPastEpoch": t // NS, "nanoseconds": t % NS}
        states = stream.states
        if states:
            return Value(self._types[stream.key], {"value": {"index": int(shown), "choices": states}, "timeStamp": stamp})
        fields: dict[str, Any] = {"value": shown, "timeStamp": stamp}
        if stream.columns["value"].dtype.kind in "iuf" and stream.unit not in ("", "dimensionless"):
            fields["display"] = {"units": stream.unit}
        return Value(self._types[stream.key], fields)


def _type(stream: Landed) -> Any:
    values = stream.columns["value"]
    if stream.states:
        return NTEnum.buildType()
    code = _CODES.get(values.dtype.str[1:], "s")
    array = "a" if values.ndim > 1 else ""
    return NTScalar(array + code, display=values.dtype.kind in "iuf").type


def _pv(stream: Landed) -> str:
    return stream.uri.partition("://")[2]


def _nd_array(frame: Any, number: int, t: int) -> dict[str, Any]:
    stamp = {"secondsPastEpoch": t // NS, "nanoseconds": t % NS}
    return {
        "value": (_PIXELS[frame.dtype.str[1:]], frame.ravel()),
        "compressedSize": frame.nbytes,
        "uncompressedSize": frame.nbytes,
        "uniqueId": number,
        "timeStamp": stamp,
        "dataTimeStamp": stamp,
        "dimension": [{"size": size, "offset": 0, "fullSize": size, "binning": 1, "reverse": False} for size in reversed(frame.shape)],
    }
