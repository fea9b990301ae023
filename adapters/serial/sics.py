"""Reads the answers of a balance after the MT-SICS reference manual (Mettler-Toledo, levels 0 and 1).

``S S`` and ``S D`` are stable and dynamic weights, ``S +`` and ``S -`` over- and underload (NaN, unusable), ``S I`` busy.
``ES``, ``EL`` and ``ET`` (syntax, logical, transmission error) and everything else are no items. The status of a row is the
letter's `status_code`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

from adapters.serial.outcome import Answer, Channel, Columns, Outcome, Reading, Unparsed, status_code
from adapters.serial.template import LONGEST_UNIT, fits
from adapters.serial.why import Why

MASS: Final = "mass"
ONCE: Final = "SI"
REPEATED: Final = "SIR"
WHO_ARE_YOU: Final = ("I4", "I2")
"""Serial number and model: asked at connect, and harmless at any time (``@`` would reset what the operator set)."""

_ERRORS: Final = {
    "ES": Why("the balance did not understand the command"),
    "EL": Why("the balance cannot do what the command asks"),
    "ET": Why("the balance received the command with a transmission error"),
}
# Approved balances put the digits that are not verified in brackets: 12.34[5].
_WEIGHT = re.compile(r"S +([SD]) +(-? *[0-9]+(?:\.[0-9]*)?)(?:\[([0-9]+)\])? +(\S+)")
_RANGE = re.compile(r"S +([+-])")
_BUSY = re.compile(r"S +I")
_INFORMATION = re.compile(r'(I[0-9]{1,2}) +A +"([^"]*)"')


class SicsParser:
    """Reads MT-SICS lines; one channel, ``mass``."""

    def __init__(self, dtype: str = "<f8", unit: str | None = None) -> None:
        self.channels: tuple[Channel, ...] = (Channel(MASS, dtype, unit),)

    def parse(self, line: bytes) -> Outcome:
        """The weight, `Answer` for what is none, `Unparsed` for errors and noise."""
        text = line.decode("ascii", "replace").strip()
        if weight := _WEIGHT.fullmatch(text):
            return self._reading(weight)
        if beyond := _RANGE.fullmatch(text):
            return Reading((math.nan,), (None,), status_code(beyond[1]))
        if _BUSY.fullmatch(text):
            return Answer()
        if text in _ERRORS:
            return Unparsed(_ERRORS[text])
        return information(text) or Unparsed(Why("is no MT-SICS answer"))

    def parse_many(self, lines: Sequence[bytes]) -> Columns | None:
        """None: a balance is slow."""
        return None

    def _reading(self, weight: re.Match[str]) -> Outcome:
        value = float(weight[2].replace(" ", "") + (weight[3] or ""))
        if len(weight[4]) > LONGEST_UNIT or not fits(value, self.channels[0].dtype):
            return Unparsed(Why("is no weight that can be"))
        return Reading((value,), (weight[4],), status_code(weight[1]))


def information(text: str) -> Answer | None:
    """What the balance says of itself: ``I4 A "B100"`` is the serial number, ``I2 A "XSR204 220.00 g"`` the model."""
    match = _INFORMATION.fullmatch(text)
    if match is None:
        return None
    command, said = match[1], match[2]
    if command == "I4":
        return Answer({"serial_number": said})
    return Answer({"maker": "Mettler-Toledo", "model": said}) if command == "I2" else Answer({command: said})


def answers_information(text: str) -> Answer | None:
    """The answer to one of `WHO_ARE_YOU`: information, or an error from a balance that does not know the command."""
    return information(text) or (Answer() if text in _ERRORS or re.fullmatch(r"I[0-9]{1,2} +[IL]", text) else None)
