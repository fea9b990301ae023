"""Plays back Channel Access: a soft IOC (softioc) with the PVs of the run. EPICS keeps its state per process, so there is one.

A value carries its alarm, so what the run has of alarms beside the values is not played once more.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from firmware_sim.loopback import LOOPBACK, confine_datagrams, hold_port
from firmware_sim.repeater import start_stand_in
from firmware_sim.replay.landed import Landed
from firmware_sim.replay.part import noted, plain
from firmware_sim.replay.playable import by_source, pv_of
from firmware_sim.truth import TruthWriter

NS = 1_000_000_000
HEARTBEAT = "firmware-sim:replay:HEARTBEAT"
PROCESSED_WITHIN = 10.0


class CaPart:
    """One IOC for all PVs of the run."""

    def __init__(self, streams: Sequence[Landed], truth: TruthWriter) -> None:
        self._streams = [main for main, *_ in by_source(streams).values()]
        self._truth = truth
        self._records: dict[str, Any] = {}
        self._heartbeat: Any = None
        self._beats = 0
        self._repeater: asyncio.DatagramTransport | None = None

    async def open(self) -> Mapping[str, Any]:
        """See `Part`."""
        port = hold_port()
        self._repeater, repeater_port = await start_stand_in()
        env = {
            "EPICS_CA_ADDR_LIST": LOOPBACK, "EPICS_CA_AUTO_ADDR_LIST": "NO", "EPICS_CA_SERVER_PORT": str(port),
            "EPICS_CA_REPEATER_PORT": str(repeater_port),
        }  # fmt: skip
        os.environ.update(env)
        os.environ.update(
            EPICS_CAS_INTF_ADDR_LIST=LOOPBACK, EPICS_CAS_SERVER_PORT=str(port), EPICS_CAS_BEACON_ADDR_LIST=LOOPBACK,
            EPICS_CAS_AUTO_BEACON_ADDR_LIST="NO", EPICS_CAS_BEACON_PORT=str(repeater_port),
        )  # fmt: skip
        # Imported here: the EPICS libraries read the environment that was just set.
        from softioc import asyncio_dispatcher, builder, softioc

        for stream in self._streams:
            self._records[stream.key] = self._record(builder, stream)
        self._heartbeat = builder.longIn(HEARTBEAT, initial_value=0)
        builder.LoadDatabase()
        softioc.iocInit(asyncio_dispatcher.AsyncioDispatcher(asyncio.get_running_loop()), enable_pva=False)
        confine_datagrams()
        for stream in self._streams:
            self._set(stream, stream.before, self._truth.now())
        await self.settle()
        return {"port": port, "env": env, "pv": {stream.key: pv_of(stream) for stream in self._streams}}

    async def show(self, stream: Landed, row: int) -> None:
        """See `Part`."""
        value = stream.columns["value"][row]
        t = self._truth.now()
        self._truth.item(stream.key, t, **noted(value))
        if stream.key not in self._records:
            return
        self._set(stream, value, t, int(stream.columns["status"][row]) if "status" in stream.columns else 0)
        await self.settle()

    async def settle(self) -> None:
        """See `Part`: one callback thread takes the records in order, so the heartbeat comes last."""
        self._beats += 1
        self._heartbeat.set(self._beats)
        async with asyncio.timeout(PROCESSED_WITHIN):
            while int(self._heartbeat.get_field("VAL")) != self._beats:  # noqa: ASYNC110 - EPICS has no event for it
                await asyncio.sleep(0.0005)

    async def close(self) -> None:
        """EPICS itself ends with the process."""
        if self._repeater is not None:
            self._repeater.close()

    def _record(self, builder: Any, stream: Landed) -> Any:
        """A record of the type that the PV had; `MDEL` -1: it posts a value that is the same as before, too."""
        values, name = stream.columns["value"], pv_of(stream).removesuffix(".VAL")
        unit = {"EGU": stream.unit} if stream.unit not in ("", "dimensionless") else {}
        states = stream.states
        if values.ndim > 1:
            size = int(np.prod(values.shape[1:]))
            dtype = np.dtype("S40") if values.dtype.kind == "S" else values.dtype.newbyteorder("=")
            return builder.WaveformIn(name, length=size, datatype=dtype, TSE="-2", **unit)
        if values.dtype.kind == "S":
            return builder.stringIn(name, TSE="-2", MPST="Always", initial_value="")
        if states:
            return builder.mbbIn(name, *states, TSE="-2", initial_value=0)
        if values.dtype.kind == "f":
            return builder.aIn(name, TSE="-2", MDEL=-1, PREC=int(stream.attributes.get("source_precision", 6)), initial_value=0.0, **unit)
        return builder.longIn(name, TSE="-2", MDEL=-1, initial_value=0, **unit)

    def _set(self, stream: Landed, value: Any, t: int, status: int = 0) -> None:
        from softioc.fields import ca_timestamp

        shown = value if getattr(value, "ndim", 0) else plain(value)
        self._records[stream.key].set(shown, severity=status >> 16, alarm=status & 0xFFFF, timestamp=ca_timestamp(t // NS, t % NS))
