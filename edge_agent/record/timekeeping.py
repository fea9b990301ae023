"""Who keeps this machine's clock, and how well: the kernel, chrony or the Windows Time service.

Asked rarely and never on the record path: `Timekeeper` remembers the last answer. The kernel knows whether anybody disciplines the clock
and how wrong it may be; chrony knows how far it is off. Nobody answers: the clock is ``unknown``.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.seal.clock import Clock

Ask = Callable[[], Clock | None]
Run = Callable[[Sequence[str]], str | None]

ASK_PROGRAMS_S = 60.0
STA_UNSYNC = 0x0040
STA_NANO = 0x2000
TIME_ERROR = 5
KEEPERS = {
    "chrony": Path("/run/chrony/chronyd.pid"),
    "systemd-timesyncd": Path("/run/systemd/timesync/synchronized"),
    "ntpd": Path("/run/ntpd.pid"),
}
"""What disciplines a clock through the kernel, and the file by which one sees it."""


class Timex(ctypes.Structure):
    """``struct timex`` of adjtimex(2), up to the fields that are read; the rest is padding."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    )


def kernel(call: Callable[[Timex], int] | None = None) -> Clock | None:
    """What the Linux kernel knows (adjtimex(2), read only): synchronised or not, and the largest error in µs.

    Args:
        call: fills the structure and returns the clock's state, -1 when refused; default: the C library's.
    """
    asked = call or _adjtimex()
    timex = Timex()
    state = -1 if asked is None else asked(timex)
    if state < 0:
        return None
    source = next((name for name, seen in KEEPERS.items() if seen.exists()), "kernel")
    if state == TIME_ERROR or timex.status & STA_UNSYNC:
        return Clock(source)
    unit = 1 if timex.status & STA_NANO else 1000
    # The offset is what is still to be added to the clock.
    return Clock(source, -timex.offset * unit, timex.maxerror * 1000, True)


def _adjtimex() -> Callable[[Timex], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None).adjtimex
    return lambda timex: int(function(ctypes.byref(timex)))


def run(command: Sequence[str]) -> str | None:
    """What a program prints; None when it is not there, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, timeout=5, check=False, text=True, errors="replace", stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def chrony(ask: Run = run) -> Clock | None:
    """What chronyd says: ``chronyc -c tracking``, one line of 14 fields (s).

    The error is at most root dispersion plus half of the root delay (chronyc(1), tracking).
    """
    fields = (ask(("chronyc", "-c", "tracking")) or "").strip().split(",")
    try:
        slow, delay, dispersion = float(fields[4]), float(fields[10]), float(fields[11])
        synced = int(fields[2]) > 0 and fields[13] != "Not synchronised"
    except (IndexError, ValueError):
        return None
    return Clock("chrony", round(-slow * 1e9), round((dispersion + delay / 2) * 1e9), True) if synced else Clock("chrony")


def w32time(ask: Run = run) -> Clock | None:
    """What the Windows Time service says: ``w32tm /query /status /verbose``.

    Its words are in the language of the system, so the lines are told by their order: leap indicator, stratum, precision, root delay,
    root dispersion, reference, last success, source, poll interval, phase offset.
    """
    lines = [line.partition(":")[2].strip() for line in (ask(("w32tm", "/query", "/status", "/verbose")) or "").splitlines() if line]
    try:
        leap, stratum = int(lines[0].split("(")[0]), int(lines[1].split("(")[0])
        delay, dispersion, behind = (float(lines[n].rstrip("s").replace(",", ".")) for n in (3, 4, 9))
    except (IndexError, ValueError):
        return None
    if leap == 3 or stratum == 0:
        return Clock("w32time")
    return Clock("w32time", round(-behind * 1e9), round((dispersion + delay / 2) * 1e9), True)


@dataclass(slots=True)
class Timekeeper:
    """The last answer, for everybody who signs. `refresh` is called every few seconds, from a thread that may wait."""

    kernel: Ask = kernel
    programs: tuple[Ask, ...] = (chrony, w32time)
    monotonic: Callable[[], float] = time.monotonic
    state: Clock = field(init=False, default_factory=Clock)
    _program: Clock | None = field(init=False, default=None)
    _asked: float = field(init=False, default=float("-inf"))

    def __call__(self) -> Clock:
        """What is known now."""
        return self.state

    def refresh(self) -> Clock:
        """Ask the kernel, and once a minute the programs; a program knows more where it answers."""
        now = self.monotonic()
        if now - self._asked >= ASK_PROGRAMS_S:
            self._asked = now
            self._program = next((told for ask in self.programs if (told := ask()) is not None), None)
        self.state = self._program or self.kernel() or Clock()
        return self.state
