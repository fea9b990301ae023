"""What the system knows of its own clock: whether something disciplines it, and how far from UTC it may be.

Linux keeps this for every process to read (adjtimex(2)); nobody is asked over a network. Elsewhere it is absent, with the reason.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from edge_agent.provenance.facts import Absent, ClockFacts

STA_UNSYNC, STA_NANO = 0x0040, 0x2000
TIME_ERROR = 5
KEEPERS = {
    "chrony": Path("/run/chrony/chronyd.pid"),
    "systemd-timesyncd": Path("/run/systemd/timesync/synchronized"),
    "ntpd": Path("/run/ntpd.pid"),
}
"""What disciplines a clock, and the file by which one sees it."""


class Timex(ctypes.Structure):
    """``struct timex`` of <sys/timex.h>; times in us, ``offset`` in ns under `STA_NANO`."""

    _fields_ = (
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("constant", ctypes.c_long), ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long), ("time", ctypes.c_long * 2), ("tick", ctypes.c_long), ("rest", ctypes.c_byte * 256),
    )  # fmt: skip


def clock_facts() -> ClockFacts:
    """The clock as it is now: the offset that is still being corrected, and the largest error, in ns."""
    if not sys.platform.startswith("linux"):
        unknown = Absent("this system does not tell how its clock is kept")
        return ClockFacts(offset_ns=unknown, uncertainty_ns=unknown, synced=unknown)
    timex = Timex()
    return read_timex(timex, ctypes.CDLL(None).adjtimex(ctypes.byref(timex)))


def read_timex(timex: Timex, answer: int) -> ClockFacts:
    """What `clock_facts` makes of the system's ``answer``: a negative one says that it refused."""
    keeper = next((name for name, seen in KEEPERS.items() if seen.exists()), "system")
    if answer < 0:
        refused = Absent("the system does not let this process ask")
        return ClockFacts(keeper, refused, refused, refused)
    if answer == TIME_ERROR or timex.status & STA_UNSYNC:
        loose = Absent("nothing keeps this clock to UTC")
        return ClockFacts(keeper, loose, loose, False)
    return ClockFacts(keeper, timex.offset if timex.status & STA_NANO else timex.offset * 1000, timex.maxerror * 1000, True)
