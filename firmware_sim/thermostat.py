"""A temperature controller that speaks SCPI: a loop with a setpoint and a heater, asked by `READ?` or `MEASure:TEMPerature?`.

Invariants: each answer to a measuring query counts once in `temperature`, those of `READ?` in `power`, too. While production does not
run, such a query is not answered, and the error queue says -230.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from firmware_sim.faults import Fault
from firmware_sim.instrument import Options
from firmware_sim.line import LINE_FAULTS, LineInstrument, Reading
from firmware_sim.scpi import NOT_A_NUMBER, Interpreter, ScpiError, number, switch

AMBIENT: Final = 295.0
LOW: Final = 4.0
HIGH: Final = 400.0
READ: Final = "READ?"
MEASURE: Final = "MEASure:TEMPerature?"


class Thermostat(LineInstrument):
    """`firmware-sim thermostat`. Ready line: `path`, or `host`, `port` and `url`; `serial` is the serial number."""

    name = "thermostat"
    model = "TC-400 (simulated)"
    end: ClassVar[bytes] = b"\n"
    main_stream = "temperature"
    units: ClassVar[Mapping[str, str]] = {"temperature": "K", "power": "%"}
    faults: ClassVar[Mapping[str, str]] = {
        **LINE_FAULTS,
        "reset": "setpoint and output as at power on, the line READY is sent unasked",
        "nan": "the next reading is 9.91E37, which SCPI has for not a number",
        "typechange": "the next reading is the word OPEN, as of a broken sensor; no reading",
    }

    def __init__(self, options: Options, *, tcp: bool = False, port: int = 0) -> None:
        super().__init__(options, tcp=tcp, port=port)
        self._serial_number = f"T{400_000 + options.seed}"
        self._temperature = AMBIENT
        self._setpoint, self._on, self._power = AMBIENT, False, 0.0
        self._scpi = Interpreter(
            f"firmware-sim,TC-400,{self._serial_number},2.1",
            {
                "SOURce:TEMPerature": self._set, "SOURce:TEMPerature?": lambda _: f"{self._setpoint:.4f}",
                "OUTPut": self._switch, "OUTPut?": lambda _: str(int(self._on)),
            },
            self._forget,
        )  # fmt: skip
        self._set("320")
        self._switch("ON")

    async def open(self) -> Mapping[str, Any]:
        """Make the line and begin to answer."""
        return {**await super().open(), "serial": self._serial_number}

    async def tick(self) -> None:
        """Heat on."""
        error = self._setpoint - self._temperature
        self._power = min(100.0, max(0.0, 8.0 * error + 20.0)) if self._on else 0.0
        leak = 0.01 * (AMBIENT - self._temperature)
        self._temperature += 0.002 * self._power + leak
        await super().tick()

    def obey(self, command: str) -> bytes | None:
        """Answer by the book."""
        answer = self._scpi.obey(command)
        return None if answer is None else answer.encode() + self.end

    def measures(self, command: str) -> bool:
        """`READ?` and `MEASure:TEMPerature?`."""
        return self._scpi.knows(command, READ) or self._scpi.knows(command, MEASURE)

    def reading(self, command: str) -> Reading:
        """Temperature in kelvin with noise of 2 mK; with `READ?`, the power of the heater in percent."""
        temperature = f"{self._temperature + float(self.rng.normal(0, 0.002)):.4f}"
        streams = {"temperature": {"v": float(temperature)}}
        if not self._scpi.knows(command, READ):
            return Reading(temperature.encode() + self.end, streams)
        power = f"{self._power:.2f}"
        return Reading(f"{temperature},{power}".encode() + self.end, streams | {"power": {"v": float(power)}})

    def not_now(self, command: str) -> bytes | None:
        """No answer, but an error."""
        self._scpi.complain(ScpiError(-230, "Data corrupt or stale"))
        return None

    def restart(self) -> bytes:
        """As at power on."""
        self._scpi.restart()
        return b"READY" + self.end

    def spoil(self, fault: Fault, reading: Reading) -> Reading:
        """A sensor that is not there."""
        _, comma, power = reading.data.partition(b",")
        rest = comma + power if comma else self.end
        if fault.kind == "nan":
            return Reading(NOT_A_NUMBER.encode() + rest, {**reading.streams, "temperature": {"v": float("nan")}})
        return Reading(b"OPEN" + rest)

    def _set(self, text: str) -> None:
        self._setpoint = number(text, LOW, HIGH)

    def _switch(self, text: str) -> None:
        self._on = switch(text)

    def _forget(self) -> None:
        self._setpoint, self._on = AMBIENT, False
