"""Watches the wall clock against the boot clock, so that what is signed says when it was set (docs/signed-chunks.md, Clocks).

The boot clock runs evenly and is set by nobody. What the wall clock gains on it is a step when it is more than `TOLERANCE_NS`; a clock that
is disciplined gently may gain `SLEW` all the time. Nothing is declared twice and nothing gets lost in small portions: the difference is
always taken from where the last declaration left it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_agent.seal.clock import Clock
from edge_agent.seal.head import Head
from edge_agent.seal.leaf import ClockLeaf

TOLERANCE_NS = 2_000_000
"""Well below the 5 ms that a verifier allows, because both ends of a pair of heads may be off by it."""
SLEW = 500e-6
TRIES = 5
NARROW_NS = 100_000


def boot_time_ns() -> int:
    """Nanoseconds since boot, suspended time included where the system has such a clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns()


@dataclass(frozen=True, slots=True)
class Reading:
    """Both clocks at one moment (ns), how far apart they may have been read, and what is known of the wall clock."""

    t_utc_ns: int
    t_boot_ns: int
    width_ns: int = 0
    clock: Clock = field(default_factory=Clock)


def read_clocks(
    clock: Callable[[], Clock] = Clock, now_ns: Callable[[], int] = time.time_ns, boot_ns: Callable[[], int] = boot_time_ns
) -> Reading:
    """Both clocks. Read again when the thread lost the processor in between: on a busy machine that looks like a step."""
    best: tuple[int, int, int] | None = None
    for _ in range(TRIES):
        before = boot_ns()
        now = now_ns()
        width = boot_ns() - before
        if best is None or width < best[0]:
            best = width, now, before + width // 2
        if width <= NARROW_NS:
            break
    assert best is not None  # noqa: S101 - TRIES is not 0
    return Reading(best[1], best[2], best[0], clock())


def unexplained(before: Head, declared: Sequence[ClockLeaf], now: Reading) -> ClockLeaf | None:
    """What must be declared before a head with the time ``now`` follows ``before`` in a tree; ``declared`` stands between them already."""
    passed = now.t_boot_ns - before.t_boot_ns
    gained = now.t_utc_ns - before.t_utc_ns - passed - sum(item.step_ns or 0 for item in declared)
    step = gained if abs(gained) > TOLERANCE_NS + SLEW * passed + now.width_ns else None
    known = next((item.sync for item in reversed(declared) if item.sync is not None), before.clock)
    changed = (now.clock.source, now.clock.synced) != (known.source, known.synced)
    if step is None and not changed:
        return None
    return ClockLeaf(step, now.clock if changed else None, now.t_utc_ns, now.t_boot_ns)


@dataclass(slots=True)
class ClockWatch:
    """What was declared of the clock so far. Not thread-safe: its owner's lock guards it."""

    read: Callable[[], Reading] = read_clocks
    last: Reading = field(init=False)
    _ahead: int = field(init=False)
    _declared: Clock = field(init=False)

    def __post_init__(self) -> None:
        """Begin with the clocks as they are."""
        self.last = self.read()
        self._ahead = self.last.t_utc_ns - self.last.t_boot_ns
        self._declared = self.last.clock

    def observe(self) -> tuple[Reading, ClockLeaf | None]:
        """The clocks now, and what must be declared before anything with this time is signed."""
        now = self.read()
        gained = now.t_utc_ns - now.t_boot_ns - self._ahead
        slew = int(SLEW * (now.t_boot_ns - self.last.t_boot_ns))
        self.last = now
        step = gained if abs(gained) > TOLERANCE_NS + slew + now.width_ns else None
        self._ahead += max(-slew, min(slew, gained)) if step is None else step
        changed = (now.clock.source, now.clock.synced) != (self._declared.source, self._declared.synced)
        if step is None and not changed:
            return now, None
        self._declared = now.clock
        return now, ClockLeaf(step, now.clock if changed else None, now.t_utc_ns, now.t_boot_ns)
