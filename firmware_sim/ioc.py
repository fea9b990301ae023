"""A soft IOC over Channel Access and PV Access (softioc): a motor, counters, slow scalars of a beamline, and with `camera` a detector.

The command `set MOTOR` sends the motor somewhere: `MOTOR_RBV` moves there, a step each tick, and `MOTOR_DMOV` is 1 when it stands.
Both protocols serve the same records; the detector's image is on a PV Access server of its own in the same process.
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

from firmware_sim.detector import FRAME_FAULTS, UNITS, Detector, client_env, server_conf
from firmware_sim.faults import Fault
from firmware_sim.freeze import freeze
from firmware_sim.instrument import CommandError, Instrument, Options, Presence, StartError
from firmware_sim.loopback import LOOPBACK, confine_datagrams, hold_port, is_free
from firmware_sim.repeater import start_stand_in
from firmware_sim.sockets import cut_connections
from firmware_sim.truth import Protocol, Scalar

NS: Final = 1_000_000_000
INVALID_SEVERITY: Final = 3
PROCESSED_WITHIN: Final = 10.0
POLL: Final = 0.05
SHUTTER_STATES: Final = ("closed", "open")
SPEED: Final = 0.25
"""Millimetres that the motor moves in a tick."""
I0_RATE: Final = 1000.0
"""Counts that the monitor counter collects in a tick while the shutter is open; a hundredth while it is closed."""


class Ioc(Instrument):
    """`firmware-sim ioc`. Ready line: `prefix`, `pv` (stream name to PV name), `port` (CA), `pva_port`, `env` for clients; `camera`."""

    name = "ioc"
    model = "Soft IOC (simulated beamline)"
    protocol: ClassVar[Protocol] = "ca"
    main_stream = "TEMP"
    units: ClassVar[Mapping[str, str]] = {
        "TEMP": "K", "CURRENT": "mA", "MOTOR": "mm", "SHUTTER": "", "PROPOSAL": "", "COUNT": "",
        "MOTOR_RBV": "mm", "MOTOR_DMOV": "", "I0": "", **UNITS,
    }  # fmt: skip
    faults: ClassVar[Mapping[str, str]] = {
        "nan": "TEMP is once not a number, with severity INVALID",
        "disconnect": "all connections are cut",
        "hang": "the process stands still for ARG (5) seconds, its connections stay open",
        "reset": "COUNT and I0 begin again at 0",
        "clockstep": "the clock of the time stamps is set by ARG (3600) seconds, back with a minus",
        **{kind: f"{what} (only with --camera)" for kind, what in FRAME_FAULTS.items() if kind != "reset"},
    }

    def __init__(
        self, options: Options, *, prefix: str = "SIM", port: int = 0, camera: tuple[int, int] | None = None, codec: str = "none"
    ) -> None:
        if camera is None and any(fault.kind not in self.scalar_kinds for fault in options.faults):
            raise StartError("without a camera there are no frames; give --camera to use a fault of frames")
        super().__init__(options)
        self._detector: Detector | None = None
        if camera is not None:
            facts = {"Model_RBV": "Simulated detector", "SerialNumber_RBV": f"C{options.seed:06d}"}
            place = f"{prefix}:CAM"
            self._detector = Detector(self.rng, self.truth, prefix=place, shape=camera, codec=codec, period=1.0 / options.rate, facts=facts)
        self._prefix = prefix
        self._port = port
        self._records: dict[str, Any] = {}
        self._now: dict[str, Scalar] = {
            "TEMP": 293.15, "CURRENT": 99.5, "MOTOR": 12.5, "SHUTTER": 0, "PROPOSAL": "2026A0001", "COUNT": 0,
            "MOTOR_RBV": 12.5, "MOTOR_DMOV": 1, "I0": 0,
        }  # fmt: skip
        self._beats = 0
        self._presence = Presence()
        self._watcher: asyncio.Task[None] | None = None
        self._repeater: asyncio.DatagramTransport | None = None
        self._ports: list[int] = []

    scalar_kinds: ClassVar[tuple[str, ...]] = ("nan", "disconnect", "hang", "reset", "clockstep")

    @property
    def random_kinds(self) -> tuple[str, ...]:
        """All kinds; without a camera those of scalars."""
        return tuple(self.faults) if self._detector else self.scalar_kinds

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
        pva_port = hold_port()
        serving |= server_conf(pva_port) | {"EPICS_PVAS_BROADCAST_PORT": str(pva_port)}
        env |= client_env(pva_port, pva_port)
        os.environ.update(env | serving)
        loop = asyncio.get_running_loop()
        self._start_epics(loop)
        self._ports = [port, pva_port]
        camera: dict[str, Any] = {}
        if self._detector is not None:
            camera = {"camera": self._detector.serve(0, lambda: loop.call_soon_threadsafe(self._presence.seen))}
            camera["camera"]["prefix"] = f"{self._prefix}:CAM"
            self._ports.append(self._detector.port)
            env["EPICS_PVA_NAME_SERVERS"] += f" {LOOPBACK}:{self._detector.port}"
        confine_datagrams()
        for stream, value in self._now.items():
            t = self.truth.now()
            self.truth.initial(stream, t, value)
            self._set(stream, t, value)
        await self._processed()
        self._watcher = asyncio.create_task(self._watch_clients())
        pv = {stream: f"{self._prefix}:{stream}" for stream in self._now}
        return {"prefix": self._prefix, "pv": pv, "port": port, "pva_port": pva_port, "env": env, **camera}

    async def client_present(self) -> None:
        """Return when a client has connected its channels."""
        await self._presence.settled()

    async def tick(self) -> None:
        """Change TEMP, CURRENT, COUNT and I0, move the motor, take a frame."""
        temperature = round(float(self._now["TEMP"]) + float(self.rng.normal(0, 0.05)), 4)
        current = round(99.5 - (float(self._now["COUNT"]) % 600) / 600 + float(self.rng.normal(0, 0.02)), 4)
        self._send("TEMP", self._other("TEMP", temperature))
        self._send("CURRENT", self._other("CURRENT", current))
        self._send("COUNT", int(self._now["COUNT"]) + 1)
        self._send("I0", int(self._now["I0"]) + 1 + int(self.rng.poisson(I0_RATE if self._now["SHUTTER"] else I0_RATE / 100)))
        self._move()
        await self._processed()
        if self._detector is not None:
            self._detector.expose()

    async def inject(self, fault: Fault, at: float) -> None:
        """Do to TEMP, to the frames, or to the whole program what `faults` says."""
        if self._detector is not None and fault.kind not in self.scalar_kinds:
            self._detector.suffer(fault, at)
            return
        self.truth.fault(fault.kind, at, fault.arg)
        match fault.kind:
            case "nan":
                before = self._now["TEMP"]
                self._send("TEMP", float("nan"), severity=INVALID_SEVERITY)
                self._now["TEMP"] = before
            case "reset":
                self._send("COUNT", 0)
                self._send("I0", 0)
            case "disconnect":
                for port in self._ports:
                    cut_connections(port)
            case "hang":
                freeze(fault.number(5))
            case "clockstep":
                self.step_clock(fault)
        await self._processed()

    def _move(self) -> None:
        """One step of the motor towards where it was sent."""
        wanted, place = float(self._now["MOTOR"]), float(self._now["MOTOR_RBV"])
        if wanted == place:
            return
        if self._now["MOTOR_DMOV"]:
            self._send("MOTOR_DMOV", 0)
        step = min(abs(wanted - place), SPEED) * (1 if wanted > place else -1)
        place = round(place + step, 4)
        self._send("MOTOR_RBV", place)
        if place == wanted:
            self._send("MOTOR_DMOV", 1)

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
        if self._detector is not None:
            self._detector.stop()

    def _start_epics(self, loop: asyncio.AbstractEventLoop) -> None:
        # Imported here: the EPICS libraries read the environment that `open` has just set.
        from softioc import asyncio_dispatcher, builder, softioc

        builder.SetDeviceName(self._prefix)
        analog = {"MOTOR": 4, "MOTOR_RBV": 4, "TEMP": 4, "CURRENT": 4}
        # TSE -2: the record keeps the time that it is given.
        self._records = {
            name: builder.aIn(name, EGU=self.units[name], PREC=digits, TSE="-2", initial_value=self._now[name])
            for name, digits in analog.items()
        }
        self._records["SHUTTER"] = builder.boolIn("SHUTTER", *SHUTTER_STATES, TSE="-2", initial_value=0)
        self._records["PROPOSAL"] = builder.stringIn("PROPOSAL", TSE="-2", initial_value=self._now["PROPOSAL"])
        for name in ("COUNT", "I0"):
            self._records[name] = builder.longIn(name, TSE="-2", initial_value=0)
        self._records["MOTOR_DMOV"] = builder.boolIn("MOTOR_DMOV", "moving", "done", TSE="-2", initial_value=1)
        self._records["HEARTBEAT"] = builder.longIn("HEARTBEAT", initial_value=0)
        builder.LoadDatabase()
        softioc.iocInit(asyncio_dispatcher.AsyncioDispatcher(loop), enable_pva=True)

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
