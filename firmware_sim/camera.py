"""An area detector as a program of its own: `firmware_sim.detector` with a clock, connections and a process that can suffer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from firmware_sim.detector import FRAME_FAULTS, STREAM, UNITS, Detector
from firmware_sim.faults import Fault
from firmware_sim.freeze import freeze
from firmware_sim.instrument import Instrument, Options, Presence
from firmware_sim.loopback import confine_datagrams
from firmware_sim.sockets import cut_connections
from firmware_sim.truth import Protocol


class Camera(Instrument):
    """`firmware-sim camera`. Ready line: `prefix`, `pv` (the image), `port`, `broadcast_port`, `shape`, `env` for clients."""

    name = "camera"
    model = "Simulated detector"
    protocol: ClassVar[Protocol] = "pva"
    main_stream = STREAM
    units: ClassVar[Mapping[str, str]] = UNITS
    rate = 20.0
    faults: ClassVar[Mapping[str, str]] = {
        **FRAME_FAULTS,
        "disconnect": "all connections are cut",
        "hang": "the process stands still for ARG (5) seconds, its connections stay open",
        "clockstep": "the clock of the time stamps is set by ARG (3600) seconds, back with a minus",
    }

    def __init__(
        self, options: Options, *, prefix: str = "SIM", shape: tuple[int, int] = (512, 512), codec: str = "none", port: int = 0
    ) -> None:
        super().__init__(options)
        self._prefix = prefix
        self._port = port
        self._presence = Presence()
        facts = {"Model_RBV": self.model, "SerialNumber_RBV": f"C{options.seed:06d}"}
        self._detector = Detector(
            self.rng, self.truth, prefix=prefix, shape=shape, codec=codec, period=1.0 / options.rate, facts=facts
        )

    async def open(self) -> Mapping[str, Any]:
        """Serve the image, empty, and the camera's scalars."""
        loop = asyncio.get_running_loop()
        addresses = self._detector.serve(self._port, lambda: loop.call_soon_threadsafe(self._presence.seen))
        confine_datagrams()
        return {"prefix": self._prefix, **addresses}

    async def client_present(self) -> None:
        """Return when a client has connected to the image."""
        await self._presence.settled()

    async def tick(self) -> None:
        """Take and send one frame."""
        self._detector.expose()

    async def inject(self, fault: Fault, at: float) -> None:
        """Do to the stream of frames, or to the whole program, what `faults` says."""
        if fault.kind in FRAME_FAULTS:
            self._detector.suffer(fault, at)
            return
        self.truth.fault(fault.kind, at, fault.arg)
        match fault.kind:
            case "disconnect":
                cut_connections(self._detector.port)
            case "hang":
                freeze(fault.number(5))
            case "clockstep":
                self.step_clock(fault)

    async def close(self) -> None:
        """Stop the server."""
        self._detector.stop()
