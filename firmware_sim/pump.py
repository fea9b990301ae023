"""A turbomolecular pump that speaks telegrams with a checksum, as Pfeiffer Vacuum's RS-485 protocol has them.

A telegram: address (3 digits), action (00 ask, 10 command or answer), parameter (3 digits), length (2 digits), data, checksum
(3 digits: sum of all characters before it, modulo 256), carriage return. Source: the protocol's public operating instructions.
Invariants: each answer to a measured parameter counts once in its stream; a telegram whose checksum is wrong is not answered;
while production does not run, a measured parameter is answered by `_LOGIC`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from firmware_sim.faults import Fault
from firmware_sim.instrument import Options
from firmware_sim.line import LINE_FAULTS, LineInstrument, Reading

ADDRESS: Final = "001"
FULL_SPEED: Final = 1500.0  # Hz
ON: Final = "111111"
OFF: Final = "000000"
NOT_KNOWN: Final = "NO_DEF"
OUT_OF_RANGE: Final = "_RANGE"
NOT_NOW: Final = "_LOGIC"
MEASURED: Final = {"309": "speed", "310": "current", "740": "pressure"}
"""Parameters that measure: rotation speed in Hz, drive current in A, pressure in hPa."""


class Pump(LineInstrument):
    """`firmware-sim pump`. Ready line: `path`, or `host`, `port` and `url`; `address`."""

    name = "pump"
    model = "TMP-300 (simulated)"
    end: ClassVar[bytes] = b"\r"
    main_stream = "speed"
    units: ClassVar[Mapping[str, str]] = {"speed": "Hz", "current": "A", "pressure": "hPa"}
    faults: ClassVar[Mapping[str, str]] = {
        **LINE_FAULTS,
        "reset": "the pump is switched off and runs down; nothing is sent",
        "nan": "the next answer is `_RANGE`: there is no value; not counted",
        "typechange": "the next answer is the word SENSOR, checksum right; not counted",
        "corrupt": "one bit of the next answer is turned over, checksum as it was; not counted",
    }

    def __init__(self, options: Options, *, tcp: bool = False, port: int = 0) -> None:
        super().__init__(options, tcp=tcp, port=port)
        self._on = True
        self._speed = 0.0

    async def open(self) -> Mapping[str, Any]:
        """Make the line and begin to answer."""
        return {**await super().open(), "address": ADDRESS}

    async def tick(self) -> None:
        """Run up or down."""
        wanted = FULL_SPEED if self._on else 0.0
        self._speed += 0.05 * (wanted - self._speed)
        await super().tick()

    def obey(self, command: str) -> bytes | None:
        """Answer what is not measured: the station's switch, name, firmware and error code."""
        if (asked := _telegram(command)) is None or asked[0] != ADDRESS:
            return None
        _, action, parameter, data = asked
        if action == "10" and parameter == "010":
            if data not in (ON, OFF):
                return self._telegram(parameter, OUT_OF_RANGE)
            self._on = data == ON
            return self._telegram(parameter, data)
        answers = {"010": ON if self._on else OFF, "303": "000000", "312": "010400", "349": "TMP300"}
        return self._telegram(parameter, answers.get(parameter, NOT_KNOWN) if action == "00" else NOT_KNOWN)

    def measures(self, command: str) -> bool:
        """A question for a measured parameter."""
        asked = _telegram(command)
        return asked is not None and asked[:2] == (ADDRESS, "00") and asked[2] in MEASURED

    def reading(self, command: str) -> Reading:
        """Measure the parameter that is asked for."""
        asked = _telegram(command)
        parameter = asked[2] if asked else "309"
        match MEASURED[parameter]:
            case "speed":
                value = float(max(0, round(self._speed + float(self.rng.normal(0, 0.6)))))
                data = f"{value:06.0f}"
            case "current":
                hundredths = round(40 + 100 * (1 - self._speed / FULL_SPEED) + float(self.rng.normal(0, 1)))
                value, data = hundredths / 100, f"{hundredths:06d}"
            case _:
                data = _exponential(1013.0 * 10 ** (-9 * self._speed / FULL_SPEED) * float(self.rng.normal(1, 0.02)))
                value = int(data[:4]) / 1000 * 10.0 ** (int(data[4:]) - 20)
        return Reading(self._telegram(parameter, data), {MEASURED[parameter]: {"v": value}})

    def not_now(self, command: str) -> bytes | None:
        """`_LOGIC`: access refused."""
        asked = _telegram(command)
        return self._telegram(asked[2] if asked else "309", NOT_NOW)

    def restart(self) -> bytes:
        """Switch off."""
        self._on = False
        return b""

    def spoil(self, fault: Fault, reading: Reading) -> Reading:
        """An answer without a value."""
        return Reading(self._telegram(reading.data[5:8].decode(), OUT_OF_RANGE if fault.kind == "nan" else "SENSOR"))

    def _telegram(self, parameter: str, data: str) -> bytes:
        body = f"{ADDRESS}10{parameter}{len(data):02d}{data}".encode()
        return body + b"%03d" % checksum(body) + self.end


def checksum(data: bytes) -> int:
    """Sum of all characters, modulo 256."""
    return sum(data) % 256


def question(parameter: str) -> bytes:
    """The telegram that asks the pump for a parameter, without its carriage return."""
    body = f"{ADDRESS}00{parameter}02=?".encode()
    return body + b"%03d" % checksum(body)


def _telegram(text: str) -> tuple[str, str, str, str] | None:
    """Address, action, parameter and data of a telegram whose length and checksum are right."""
    body, said = text[:-3], text[-3:]
    if len(text) < 13 or not (text.isascii() and said.isdigit() and body[8:10].isdigit()):
        return None
    if int(said) != checksum(body.encode()) or int(body[8:10]) != len(body) - 10:
        return None
    return body[:3], body[3:5], body[5:8], body[10:]


def _exponential(value: float) -> str:
    """Four digits of mantissa in thousandths and two of the exponent plus 20: 1.013E3 is 101323."""
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{mantissa.replace('.', '')}{int(exponent) + 20:02d}"
