"""The commands of a balance after the MT-SICS reference manual (Mettler-Toledo, levels 0 and 1), and its load.

Pure: command lines in, answer lines out. A weight answer is `S <status> <value> <unit>`: status S stable or D
dynamic, value right-aligned in 10 characters with four decimals, unit g. `S +` is overload, `S I` not executable now.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

UNIT: Final = "g"
RESOLUTION: Final = 10_000  # digits per gram
STABLE_BELOW: Final = 12  # digits of change
OVERLOAD: Final = "S +"
NOT_NOW: Final = "S I"


@dataclass(frozen=True, slots=True)
class Weight:
    """One weighing: the answer line without CR LF, and the mass in grams exactly as the line says it."""

    line: str
    grams: float


class Load:
    """A mass that drifts: a seeded random walk in steps of 0.0001 g, never the same value twice in a row."""

    def __init__(self, rng: np.random.Generator, start_digits: int = 100 * RESOLUTION) -> None:
        self._rng = rng
        self._gross = start_digits
        self._offset = 0

    def weigh(self, *, stable: bool = False) -> Weight:
        """Take the next step and weigh; `stable` forces the status S, as the command S waits for it."""
        step = int(self._rng.integers(1, 24)) * (1 if self._rng.random() < 0.5 else -1)
        self._gross += step
        status = "S" if stable or abs(step) < STABLE_BELOW else "D"
        value = f"{(self._gross - self._offset) / RESOLUTION:.4f}"
        return Weight(f"S {status} {value:>10} {UNIT}", float(value))

    def tare(self) -> str:
        """Make the present load the new zero; returns the tare weight as text."""
        self._offset = self._gross
        return f"{self._gross / RESOLUTION:>10.4f}"

    def zero(self) -> None:
        """Make the present load the zero point."""
        self._gross = self._offset = 0


class Interpreter:
    """Answers everything but weights. `weight_wanted` says what the last command asked for."""

    def __init__(self, load: Load, model: str, serial_number: str) -> None:
        self._load = load
        self._model = model
        self._serial_number = serial_number
        self.continuous = False

    def wants_weight(self, command: str) -> bool:
        """True for the commands that a weight answers: S, SI and SIR."""
        return command in {"S", "SI", "SIR"}

    def answer(self, command: str) -> str:
        """Return the answer to a command that is not a weighing; `ES` to what is none. Ends continuous sending."""
        self.continuous = False
        match command:
            case "@" | "I4":
                return f'I4 A "{self._serial_number}"'
            case "I2":
                return f'I2 A "{self._model} 220.0000 {UNIT}"'
            case "Z":
                self._load.zero()
                return "Z A"
            case "T":
                return f"T S {self._load.tare()} {UNIT}"
            case _:
                return "ES"
