"""What the run record says of the machine's clock: what the heads say of it (`seal.clock`), with a reason for what is not known."""

from __future__ import annotations

from edge_agent.provenance.facts import Absent, ClockFacts
from edge_agent.seal.clock import Clock


def clock_facts(clock: Clock) -> ClockFacts:
    """The offset that is still to be corrected (a clock that is ahead has a negative one), and the largest error, in ns."""
    if clock == Clock():
        untold = Absent("this system does not tell how its clock is kept")
        return ClockFacts(clock.source, untold, untold, untold)
    if not clock.synced:
        loose = Absent("nothing keeps this clock to UTC")
        return ClockFacts(clock.source, loose, loose, False)
    unknown = Absent(f"{clock.source} does not tell it")
    return ClockFacts(
        clock.source,
        unknown if clock.offset_ns is None else -clock.offset_ns,
        unknown if clock.uncertainty_ns is None else clock.uncertainty_ns,
        True,
    )
