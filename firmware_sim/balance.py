"""An analytical balance that speaks Mettler SICS on a pty, or with `tcp` on a loopback socket.

Invariants: every weight line counts once in the stream `mass`, also one that nobody read. Weights are given only while
production runs; outside it a weighing is answered by `S I`. A line asked for by SIR comes each tick.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from firmware_sim.faults import Fault
from firmware_sim.instrument import Options
from firmware_sim.line import LINE_FAULTS, LineInstrument, Reading
from firmware_sim.sics import NOT_NOW, OVERLOAD, UNIT, Interpreter, Load


class Balance(LineInstrument):
    """`firmware-sim balance`. Ready line: `path`, or `host`, `port` and `url`; `serial` is the serial number."""

    name = "balance"
    model = "XSR204 (simulated)"
    main_stream = "mass"
    units: ClassVar[Mapping[str, str]] = {"mass": UNIT}
    faults: ClassVar[Mapping[str, str]] = {
        **LINE_FAULTS,
        "reset": "continuous sending ends, and the serial number is sent unasked, as at power on",
        "nan": "the next weight is the overload line `S +`; counted as a weight that is not a number",
        "typechange": "the next weight is the word ERROR; no weight",
    }

    def __init__(self, options: Options, *, tcp: bool = False, port: int = 0) -> None:
        super().__init__(options, tcp=tcp, port=port)
        self._load = Load(self.rng)
        self._serial_number = f"B{100_000_000 + options.seed}"
        self._sics = Interpreter(self._load, "XSR204", self._serial_number)

    async def open(self) -> Mapping[str, Any]:
        """Make the line and begin to answer."""
        return {**await super().open(), "serial": self._serial_number}

    @property
    def sends(self) -> bool:
        """After SIR, until any other command."""
        return self._sics.continuous

    def obey(self, command: str) -> bytes | None:
        """Answer by the book."""
        return self._sics.answer(command).encode() + self.end

    def measures(self, command: str) -> bool:
        """S, SI and SIR; SIR begins continuous sending, whose first line comes with the next tick."""
        self._sics.continuous = command == "SIR"
        return self._sics.wants_weight(command)

    def send_reading(self, command: str) -> None:
        """Weigh; not at once for SIR."""
        if command != "SIR":
            super().send_reading(command)

    def reading(self, command: str) -> Reading:
        """Take a weight."""
        weight = self._load.weigh(stable=command == "S")
        return Reading(weight.line.encode() + self.end, {"mass": {"v": weight.grams}})

    def not_now(self, command: str) -> bytes | None:
        """`S I`."""
        return NOT_NOW.encode() + self.end

    def restart(self) -> bytes:
        """As the command `@`."""
        return self._sics.answer("@").encode() + self.end

    def spoil(self, fault: Fault, reading: Reading) -> Reading:
        """Overload, or a word."""
        if fault.kind == "nan":
            return Reading(OVERLOAD.encode() + self.end, {"mass": {"v": float("nan")}})
        return Reading(b"S S      ERROR g" + self.end)

    def forget_client(self) -> None:
        """End continuous sending."""
        self._sics.continuous = False
