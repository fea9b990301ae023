"""What may become of one line, and what a parser is. Pure values.

Invariants: `Reading.values` are in the order of the parser's channels and fit their dtypes; a parser never raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edge_agent.model import NO_TIME

Value = float | int | bytes | npt.NDArray[Any]
"""What a channel may hold: a number, a text, or numbers side by side (a spectrum)."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One quantity of a line. ``dtype`` is ``<f8``, ``<i8``, ``|S64`` or alike; ``unit`` None: as the line says.

    ``shape`` is () for one value, else how many stand side by side; None: that comes with the values, and may change.
    """

    name: str
    dtype: str = "<f8"
    unit: str | None = None
    shape: tuple[int, ...] | None = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """The values of one line. ``units`` None: the line says none. ``status`` is `status_code` of its status word.

    ``t_source`` is the instrument's own time, UTC ns. ``form`` says whose values these are, where lines have several forms.
    """

    values: tuple[Value, ...]
    units: tuple[str | None, ...]
    status: int = 0
    t_source: int = NO_TIME
    form: int = 0


class Columns(NamedTuple):
    """The values of many lines, a column a channel; each unit holds for the whole column. ``status`` is uint32."""

    values: tuple[npt.NDArray[Any], ...]
    units: tuple[str | None, ...]
    status: npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that holds no value of a channel: what the instrument says of itself, or that it is busy."""

    facts: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unparsed:
    """The line is no item; ``why`` says what was wrong with it."""

    why: str


Outcome = Reading | Answer | Unparsed


class Parser(Protocol):
    """Reads one line (without its delimiter)."""

    channels: tuple[Channel, ...]

    def parse(self, line: bytes) -> Outcome:
        """The values of the line, or why there are none."""
        ...

    def parse_many(self, lines: Sequence[bytes]) -> Columns | None:
        """The values of many lines at once, the same that `parse` gives; None where they have to be read one by one."""
        ...


def status_code(word: str) -> int:
    """A status word as a number: its first four characters in ASCII, the first the most significant (``S`` = 0x53, ``US`` = 0x5553)."""
    return int.from_bytes(word.encode("ascii", "replace")[:4], "big")
