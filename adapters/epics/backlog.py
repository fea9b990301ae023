"""How much stood before an update in the connection, so that what a server may have merged meanwhile is not passed over in silence.

libca stops a server (CA_PROTO_EVENTS_OFF) when ten of its buffers of 16 KiB came without a pause, and a stopped server keeps only the last
value of each PV; nothing in the protocol says so. But what an update found before it is known: the bytes that were taken in between the
time when it was sent, which is the source's time plus the least delay of that PV so far, and the time of its arrival.

Invariants: `took` runs in libca's threads, `before` on the loop; times are UTC ns of arrival.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

STOPS_AT = 10 * 16 * 1024 // 2
"""Half of the bytes without a pause after which libca stops a server (tcpiiu.cpp of EPICS Base,
contiguousMsgCountWhichTriggersFlowControl), since what is found is too little by up to two steps."""

STEP_NS = 10_000_000
KEPT = 1024


class Intake:
    """Bytes that libca handed over, by time; of all connections of this process."""

    def __init__(self) -> None:
        self._total = 0
        self._noted: deque[tuple[int, int]] = deque([(0, 0)], KEPT)
        self.stopped: dict[str, tuple[int, int, int]] = {}
        """Of each server: from when to when a value last came behind too much, and how late. It is stopped for all its PVs."""

    def took(self, size: int, t: int) -> None:
        """Count an update. Two threads at once may lose a count, which does no harm here."""
        self._total += size
        if t - self._noted[-1][0] > STEP_NS:
            self._noted.append((t, self._total))

    def before(self, t_sent: int, t_arrival: int) -> int:
        """Bytes that were taken between the two times, rounded down to the steps in which they are noted."""
        noted = list(self._noted)
        first = bisect_right(noted, (t_sent, self._total))
        last = bisect_right(noted, (t_arrival, self._total)) - 1
        return noted[last][1] - noted[first][1] if first < last else 0


intake = Intake()
"""libca is one client per process."""
