from __future__ import annotations

from edge_agent.provenance.clock import clock_facts
from edge_agent.provenance.facts import Absent, ClockFacts
from edge_agent.seal.clock import Clock


def test_a_clock_that_is_kept_says_how_far_off_it_may_be() -> None:
    assert clock_facts(Clock("chrony", 1500, 250_000, True)) == ClockFacts("chrony", -1500, 250_000, True)


def test_what_its_keeper_does_not_tell_is_absent_with_a_reason() -> None:
    untold = Absent("ptp does not tell it")
    assert clock_facts(Clock("ptp", None, None, True)) == ClockFacts("ptp", untold, untold, True)


def test_a_clock_that_nothing_keeps_is_said_to_be_loose() -> None:
    loose = Absent("nothing keeps this clock to UTC")
    assert clock_facts(Clock("kernel", 7, 8, False)) == ClockFacts("kernel", loose, loose, False)


def test_a_system_that_tells_nothing_is_not_guessed_at() -> None:
    untold = Absent("this system does not tell how its clock is kept")
    assert clock_facts(Clock()) == ClockFacts("unknown", untold, untold, untold)
