"""Faults on a timetable: which kind, when, with what argument. What a kind does is the instrument's business.

Invariants: a fault is handed out once, in order of time, never before its second; an unknown kind is refused before
the instrument starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


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
    fault.number(0)
    return fault


@dataclass(slots=True)
class Timetable:
    """The faults still to come."""

    faults: Iterable[Fault] = ()
    _waiting: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Sort by time."""
        self._waiting = sorted(self.faults, key=lambda fault: fault.at)

    def due(self, elapsed: float) -> list[Fault]:
        """Take out and return the faults whose time has come, `elapsed` seconds after production began."""
        ready = [fault for fault in self._waiting if fault.at <= elapsed]
        self._waiting = self._waiting[len(ready) :]
        return ready
