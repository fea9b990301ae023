"""An analytical balance that speaks Mettler SICS on a pty, or with `tcp` on a loopback socket.

Invariants: every weight line counts once in the stream `mass`, also one that nobody read; nothing blocks. Weights are
given only while production runs; outside it a weighing is answered by `S I`. A line asked for by SIR comes each tick.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from firmware_sim.faults import Fault
from firmware_sim.instrument import Instrument, Options, StartError
from firmware_sim.links import Link, PtyLink, TcpLink
from firmware_sim.sics import NOT_NOW, OVERLOAD, UNIT, Interpreter, Load
from firmware_sim.truth import Protocol

CRLF = b"\r\n"


class Balance(Instrument):
    """`firmware-sim balance`. Ready line: `path`, or `host`, `port` and `url`; `serial` is the serial number."""

    name = "balance"
    model = "XSR204 (simulated)"
    protocol: ClassVar[Protocol] = "serial"
    main_stream = "mass"
    units: ClassVar[Mapping[str, str]] = {"mass": UNIT}
    faults: ClassVar[Mapping[str, str]] = {
        "garbage": "a line of ARG (16) bytes above 0x7F; no weight",
        "partial": "a weight line cut after ARG (8) bytes, its end of line kept; no weight",
        "hang": "no answer and no line for ARG (5) seconds",
        "nan": "one overload line `S +`; counted as a weight that is not a number",
        "disconnect": "the TCP connection is closed (only with --tcp)",
    }

    def __init__(self, options: Options, *, tcp: bool = False, port: int = 0) -> None:
        if not tcp and any(fault.kind == "disconnect" for fault in options.faults):
            raise StartError("a pty cannot be disconnected; give --tcp to use the fault disconnect")
        super().__init__(options)
        self._link: Link = TcpLink(port) if tcp else PtyLink()
        self._load = Load(self.rng)
        self._serial_number = f"B{100_000_000 + options.seed}"
        self._sics = Interpreter(self._load, "XSR204", self._serial_number)
        self._commands: asyncio.Queue[str] = asyncio.Queue()
        self._asked = asyncio.Event()
        self._answering: asyncio.Task[None] | None = None
        self._hung_until = 0.0

    async def open(self) -> Mapping[str, Any]:
        """Make the line and begin to answer."""
        try:
            address = await self._link.open(self._commands.put_nowait, self._new_client)
        except OSError as e:
            raise StartError(f"cannot listen ({e}); choose another --port or leave it out") from e
        self._answering = asyncio.create_task(self._answer())
        return {**address, "serial": self._serial_number}

    async def client_present(self) -> None:
        """Return at the first command: who asks is listening."""
        await self._asked.wait()

    async def tick(self) -> None:
        """Send the next line of continuous sending, if a client asked for it."""
        if self._answering is not None and self._answering.done():
            self._answering.result()  # it never ends by itself, so this raises what broke it
        if self._sics.continuous and not self._hung:
            self._weigh()

    async def inject(self, fault: Fault, at: float) -> None:
        """Do on the line what `faults` says."""
        details: dict[str, Any] = {}
        if fault.kind == "nan":
            self._sent(float("nan"), OVERLOAD)
        elif fault.kind == "disconnect":
            self._link.drop()
        elif fault.kind == "hang":
            self._hung_until = asyncio.get_running_loop().time() + fault.number(5)
        else:
            size = int(fault.number(16 if fault.kind == "garbage" else 8))
            noise = self.rng.integers(0x80, 0x100, size, dtype="u1").tobytes()
            data = noise if fault.kind == "garbage" else self._load.weigh().line.encode()[:size]
            self._link.send(data + CRLF)
            details = {"hex": data.hex()}
        self.truth.fault(fault.kind, at, fault.arg, **details)

    async def close(self) -> None:
        """Close the line."""
        if self._answering is not None:
            self._answering.cancel()
        await self._link.close()

    @property
    def _hung(self) -> bool:
        return asyncio.get_running_loop().time() < self._hung_until

    def _new_client(self) -> None:
        # Who comes new has not asked for anything yet, and who has left wants nothing any more.
        self._sics.continuous = False

    async def _answer(self) -> None:
        while True:
            command = await self._commands.get()
            self._asked.set()
            if not self.options.hold:
                await self.gate.opened.wait()
            if self._hung:
                continue
            if not self._sics.wants_weight(command):
                self._link.send(self._sics.answer(command).encode() + CRLF)
                continue
            self._sics.continuous = command == "SIR"
            if command != "SIR":
                self._weigh(stable=command == "S")

    def _weigh(self, *, stable: bool = False) -> None:
        if not self.gate.active or self.full:
            self._link.send(NOT_NOW.encode() + CRLF)
            return
        weight = self._load.weigh(stable=stable)
        self._sent(weight.grams, weight.line)

    def _sent(self, grams: float, line: str) -> None:
        self.truth.item("mass", self.truth.now(), v=grams)
        self._link.send(line.encode() + CRLF)
