"""What a UART counts of a bad line: breaks, parity and framing errors, overruns.

Linux keeps the counts per device and gives them by ``TIOCGICOUNT`` (ioctl_tty(2), ``struct serial_icounter_struct`` of
``linux/serial.h``); a device server tells them as they happen (RFC 2217, NOTIFY-LINESTATE). Ptys, raw TCP and other systems have none.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Final

from edge_agent.model import Cause

_TIOCGICOUNT: Final = 0x545D
_COUNTERS: Final = struct.Struct("=11i36x")
"""cts, dsr, rng, dcd, rx, tx, frame, overrun, parity, brk, buf_overrun, and nine that are reserved."""
_WRAP: Final = 1 << 32

NOISE: Final = Cause.GARBAGE
LOSS: Final = Cause.OVERFLOW


@dataclass(frozen=True, slots=True)
class LineErrors:
    """How often each happened. ``overrun``: the UART was not read in time; ``buffer``: the driver's buffer was full."""

    breaks: int = 0
    parity: int = 0
    framing: int = 0
    overrun: int = 0
    buffer: int = 0

    def since(self, before: LineErrors) -> LineErrors:
        """What has been counted since; the counters are 32 bits wide and wrap."""
        return LineErrors(*((now - then) % _WRAP for now, then in zip(astuple(self), astuple(before), strict=True)))

    def told(self) -> Sequence[tuple[Cause, str]]:
        """What it means for the data, in words: bytes that are wrong, and bytes that are gone."""
        noise = _words((self.breaks, "break"), (self.parity, "parity error"), (self.framing, "framing error"))
        loss = _words((self.overrun, "overrun of the UART"), (self.buffer, "overrun of the driver's buffer"))
        return [(cause, words) for cause, words in ((NOISE, noise), (LOSS, loss)) if words]


def counted_by_driver(fd: int) -> LineErrors | None:
    """What the driver of an open device has counted; None where it does not count (ptys, some USB adapters, other systems)."""
    if sys.platform != "linux":
        return None
    import fcntl

    buffer = bytearray(_COUNTERS.size)
    try:
        fcntl.ioctl(fd, _TIOCGICOUNT, buffer)
    except OSError:
        return None
    return from_counters(bytes(buffer))


def from_counters(raw: bytes) -> LineErrors:
    """The counts of a ``struct serial_icounter_struct``."""
    *_, framing, overrun, parity, breaks, buffer = _COUNTERS.unpack(raw)
    return LineErrors(breaks, parity, framing, overrun, buffer)


def from_line_state(state: int) -> LineErrors:
    """The errors of one NOTIFY-LINESTATE (RFC 2217, section 3: bits as in the line status register)."""
    return LineErrors(breaks=state >> 4 & 1, framing=state >> 3 & 1, parity=state >> 2 & 1, overrun=state >> 1 & 1)


def _words(*counts: tuple[int, str]) -> str:
    return ", ".join(f"{count} {_many(word, count)}" for count, word in counts if count)


def _many(word: str, count: int) -> str:
    head, of, tail = word.partition(" of ")
    return word if count == 1 else f"{head}s{of}{tail}"
