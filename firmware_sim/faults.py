"""Faults on a timetable or at random: which kind, when, with what argument. What a kind does is the instrument's business.

Invariants: a fault is handed out once, in order of time, never before its second; an unknown kind is refused before
the instrument starts; the same seed gives the same random faults.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

KINDS: Final[Mapping[str, str]] = {
    "disconnect": "connections are cut",
    "hang": "no answer, with open connections",
    "reset": "restart: counters begin again",
    "garbage": "bytes that are no item",
    "partial": "an item that is cut",
    "duplicate": "an item twice",
    "reorder": "two items in the wrong order",
    "clockstep": "the clock is set",
    "nan": "a value that is not a number",
    "typechange": "a value of another type",
    "certificate": "the server shows another certificate",
    "drip": "bytes come slowly, one by one",
}
"""The kinds that instruments share; some know further ones of their own."""

LASTING: Final = frozenset({"hang", "drip"})
"""Kinds whose argument is a time in seconds."""


class FaultError(ValueError):
    """A fault that cannot be scheduled; the message says what was given and what would do."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One fault, `at` seconds after production began. `arg` is text whose meaning depends on the kind."""

    at: float
    kind: str
    arg: str | None = None

    def number(self, default: float) -> float:
        """Return the argument as a number, or the default when there is none; raises FaultError when it is none."""
        if self.arg is None:
            return default
        try:
            value = float(self.arg)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1e6:
            raise FaultError(f"fault {self.kind}@{self.at:g}:{self.arg}: the argument must be a number from 0 to 1000000")
        return value


    def signed(self, default: float) -> float:
        """Return the argument as a number that may be negative, as of `clockstep`."""
        size = Fault(self.at, self.kind, self.arg.removeprefix("-") if self.arg else None).number(abs(default))
        return -size if (self.arg or "").startswith("-") else size


def parse_fault(text: str, known: Mapping[str, str]) -> Fault:
    """Parse `KIND@SECONDS[:ARG]`.

    Args:
        text: what the user wrote, as `drop@2.5:10`.
        known: the kinds this instrument has, each with a line of explanation.

    Raises:
        FaultError: wrong form, unknown kind, negative or infinite time, or an argument that is not a number.
    """
    kind, at_sign, rest = text.partition("@")
    when, _, arg = rest.partition(":")
    try:
        seconds = float(when)
    except ValueError:
        seconds = -1.0
    if not at_sign or not 0 <= seconds < 1e9:
        raise FaultError(f"--fault {text!r} is not KIND@SECONDS[:ARG]; write for example drop@2.5:10")
    if kind not in known:
        kinds = ", ".join(known) or "none"
        raise FaultError(f"--fault {text!r}: this instrument knows no fault {kind!r}; it knows: {kinds}")
    fault = Fault(seconds, kind, arg or None)
    if kind == "clockstep":
        fault.signed(0)
    else:
        fault.number(0)
    return fault


def random_faults(seed: int, kinds: Sequence[str], every: float) -> Iterator[Fault]:
    """Yield faults without end, in order of time, on average one in `every` seconds (a Poisson process), each kind equally often.

    Those that last (hang, drip) do so for a tenth of a second up to 1.5 s.
    """
    rng = np.random.default_rng([seed, len(kinds)])
    at = 0.0
    while kinds:
        at += float(rng.exponential(every))
        kind = kinds[int(rng.integers(len(kinds)))]
        yield Fault(at, kind, f"{rng.uniform(0.1, 1.5):.3f}" if kind in LASTING else None)


@dataclass(slots=True)
class Timetable:
    """The faults still to come: those of a list and, mixed in by time, those of an endless iterator in order of time."""

    faults: Iterable[Fault] = ()
    endless: Iterable[Fault] = ()
    _waiting: Iterator[Fault] = field(init=False)

    def __post_init__(self) -> None:
        """Sort by time."""
        listed = sorted(self.faults, key=lambda fault: fault.at)
        self._waiting = heapq.merge(listed, self.endless, key=lambda fault: fault.at)

    def due(self, elapsed: float) -> list[Fault]:
        """Take out and return the faults whose time has come, `elapsed` seconds after production began."""
        ready: list[Fault] = []
        for fault in self._waiting:
            if fault.at > elapsed:
                self._waiting = itertools.chain([fault], self._waiting)
                break
            ready.append(fault)
        return ready
