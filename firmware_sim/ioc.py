"""A soft IOC over Channel Access (softioc): slow scalars of a beamline.

Invariants: two successive values of a record differ, since records post changes only; record time is the truth's `t`,
exactly (a `ca_timestamp`, so no float is rounded). A process holds at most one IOC: EPICS keeps its state per process,
and reads its environment when it is imported.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from firmware_sim.faults import Fault
from firmware_sim.instrument import CommandError, Instrument, Options, Presence, StartError
from firmware_sim.loopback import LOOPBACK, confine_datagrams, hold_port, is_free
from firmware_sim.repeater import start_stand_in
from firmware_sim.truth import Protocol, Scalar

NS: Final = 1_000_000_000
INVALID_SEVERITY: Final = 3
PROCESSED_WITHIN: Final = 10.0
POLL: Final = 0.05
SHUTTER_STATES: Final = ("closed", "open")


class Ioc(Instrument):
    """`firmware-sim ioc`. Ready line: `prefix`, `pv` (stream name to PV name), `port`, `env` for clients."""

    name = "ioc"
    model = "Soft IOC (simulated beamline)"
    protocol: ClassVar[Protocol] = "ca"
    main_stream = "TEMP"
    units: ClassVar[Mapping[str, str]] = {
        "TEMP": "K", "CURRENT": "mA", "MOTOR": "mm", "SHUTTER": "", "PROPOSAL": "", "COUNT": "",
    }  # fmt: skip
    faults: ClassVar[Mapping[str, str]] = {"nan": "TEMP is once not a number, with severity INVALID"}

    def __init__(self, options: Options, *, prefix: str = "SIM", port: int = 0) -> None:
        super().__init__(options)
        self._prefix = prefix
        self._port = port
        self._records: dict[str, Any] = {}
        self._now: dict[str, Scalar] = {
            "TEMP": 293.15, "CURRENT": 99.5, "MOTOR": 12.5, "SHUTTER": 0, "PROPOSAL": "2026A0001", "COUNT": 0,
        }  # fmt: skip
        self._beats = 0
        self._presence = Presence()
        self._watcher: asyncio.Task[None] | None = None
        self._repeater: asyncio.DatagramTransport | None = None

    async def open(self) -> Mapping[str, Any]:
        """Set the environment, import EPICS, start the IOC with its initial values."""
        port = self._port or hold_port()
        if not is_free(port):
            # The CA server would take another one and say so on stderr only.
            raise StartError(f"port {port} is taken; choose another --port or leave it out")
        self._repeater, repeater_port = await start_stand_in()
        env = {
            "EPICS_CA_ADDR_LIST": LOOPBACK,
            "EPICS_CA_AUTO_ADDR_LIST": "NO",
            "EPICS_CA_SERVER_PORT": str(port),
            "EPICS_CA_REPEATER_PORT": str(repeater_port),
        }
        serving = {
            "EPICS_CAS_INTF_ADDR_LIST": LOOPBACK,
            "EPICS_CAS_SERVER_PORT": str(port),
            "EPICS_CAS_BEACON_ADDR_LIST": LOOPBACK,
            "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
            "EPICS_CAS_BEACON_PORT": str(repeater_port),
        }
        os.environ.update(env | serving)
        self._start_epics(asyncio.get_running_loop())
        confine_datagrams()
        for stream, value in self._now.items():
            t = self.truth.now()
            self.truth.initial(stream, t, value)
            self._set(stream, t, value)
        await self._processed()
        self._watcher = asyncio.create_task(self._watch_clients())
        pv = {stream: f"{self._prefix}:{stream}" for stream in self._now}
        return {"prefix": self._prefix, "pv": pv, "port": port, "env": env}

    async def client_present(self) -> None:
        """Return when a client has connected its channels."""
        await self._presence.settled()

    async def tick(self) -> None:
        """Change TEMP, CURRENT and COUNT."""
        temperature = round(float(self._now["TEMP"]) + float(self.rng.normal(0, 0.05)), 4)
        current = round(99.5 - (float(self._now["COUNT"]) % 600) / 600 + float(self.rng.normal(0, 0.02)), 4)
        self._send("TEMP", self._other("TEMP", temperature))
        self._send("CURRENT", self._other("CURRENT", current))
        self._send("COUNT", int(self._now["COUNT"]) + 1)
        await self._processed()

    async def inject(self, fault: Fault, at: float) -> None:
        """Make TEMP once not a number."""
        self.truth.fault(fault.kind, at, fault.arg)
        before = self._now["TEMP"]
        self._send("TEMP", float("nan"), severity=INVALID_SEVERITY)
        self._now["TEMP"] = before
        await self._processed()

    async def command(self, words: Sequence[str]) -> Mapping[str, Any]:
        """Obey `shutter open|close` and `set MOTOR|TEMP|CURRENT NUMBER`, `set PROPOSAL TEXT`."""
        stream, value = _parse(words)
        changed = value != self._now[stream]
        if changed:
            self._send(stream, value)
            await self._processed()
        return {"stream": stream, "changed": changed, "sent": self.truth.sent.get(stream, 0)}

    async def close(self) -> None:
        """Stop watching; EPICS itself ends with the process."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._repeater is not None:
            self._repeater.close()

    def _start_epics(self, loop: asyncio.AbstractEventLoop) -> None:
        # Imported here: the EPICS libraries read the environment that `open` has just set.
        from softioc import asyncio_dispatcher, builder, softioc

        builder.SetDeviceName(self._prefix)
        analog = {"MOTOR": 3, "TEMP": 4, "CURRENT": 4}
        # TSE -2: the record keeps the time that it is given.
        self._records = {
            name: builder.aIn(name, EGU=self.units[name], PREC=digits, TSE="-2", initial_value=self._now[name])
            for name, digits in analog.items()
        }
        self._records["SHUTTER"] = builder.boolIn("SHUTTER", *SHUTTER_STATES, TSE="-2", initial_value=0)
        self._records["PROPOSAL"] = builder.stringIn("PROPOSAL", TSE="-2", initial_value=self._now["PROPOSAL"])
        self._records["COUNT"] = builder.longIn("COUNT", TSE="-2", initial_value=0)
        self._records["HEARTBEAT"] = builder.longIn("HEARTBEAT", initial_value=0)
        builder.LoadDatabase()
        softioc.iocInit(asyncio_dispatcher.AsyncioDispatcher(loop), enable_pva=False)

    def _send(self, stream: str, value: Scalar, *, severity: int = 0) -> None:
        t = self.truth.now()
        self.truth.item(stream, t, v=value)
        self._now[stream] = value
        self._set(stream, t, value, severity)

    def _set(self, stream: str, t: int, value: Scalar, severity: int = 0) -> None:
        from softioc.fields import ca_timestamp

        self._records[stream].set(value, severity=severity, timestamp=ca_timestamp(t // NS, t % NS))

    async def _processed(self) -> None:
        """Wait until the IOC has processed all that was set.

        `set` only queues the record, and a second one before processing would replace the value. One callback thread
        takes the queue in order, so when the heartbeat has arrived, everything before it has.
        """
        self._beats += 1
        self._records["HEARTBEAT"].set(self._beats)
        async with asyncio.timeout(PROCESSED_WITHIN):
            while int(self._records["HEARTBEAT"].get_field("VAL")) != self._beats:  # noqa: ASYNC110 - EPICS has no event for it
                await asyncio.sleep(0.001)

    async def _watch_clients(self) -> None:
        from softioc.imports import dbCore

        known = 0
        channels, connections = ctypes.c_uint(), ctypes.c_uint()
        while True:
            dbCore.casStatsFetch(ctypes.byref(channels), ctypes.byref(connections))
            if channels.value > known:
                self._presence.seen()
            known = channels.value
            await asyncio.sleep(POLL)

    def _other(self, stream: str, value: float) -> float:
        return value if value != self._now[stream] else round(value + 0.0001, 4)


def _parse(words: Sequence[str]) -> tuple[str, Scalar]:
    match words:
        case ["shutter", "open" | "close" as state]:
            return "SHUTTER", int(state == "open")
        case ["set", "PROPOSAL", text] if len(text.encode()) < 40:
            return "PROPOSAL", text
        case ["set", "MOTOR" | "TEMP" | "CURRENT" as stream, number]:
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise CommandError(f"{number!r} is no finite number; write for example: set MOTOR 12.5")
            return stream, value
    raise CommandError("the IOC knows: go, stop, quit, shutter open|close, set MOTOR|TEMP|CURRENT NUMBER, set PROPOSAL TEXT")
