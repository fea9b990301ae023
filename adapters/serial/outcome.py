"""What may become of one line, and what a parser is. Pure values.

Invariants: `Reading.values` are in the order of the parser's channels and fit their dtypes; a parser never raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Channel:
    """One quantity of a line. ``dtype`` is ``<f8``, ``<i8``, ``|S64`` or alike; ``unit`` None: as the line says."""

    name: str
    dtype: str = "<f8"
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """The values of one line. ``units`` None: the line says none. ``status`` is `status_code` of its status word."""

    values: tuple[float | int | bytes, ...]
    units: tuple[str | None, ...]
    status: int = 0


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


def status_code(word: str) -> int:
    """A status word as a number: its first four characters in ASCII, the first the most significant (``S`` = 0x53, ``US`` = 0x5553)."""
    return int.from_bytes(word.encode("ascii", "replace")[:4], "big")
