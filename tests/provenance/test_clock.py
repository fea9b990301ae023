from __future__ import annotations

import pytest

from edge_agent.provenance.clock import STA_NANO, STA_UNSYNC, TIME_ERROR, Timex, clock_facts, read_timex
from edge_agent.provenance.facts import Absent, ClockFacts


@pytest.mark.parametrize(("status", "offset"), [(STA_NANO, -1500), (0, -1_500_000)])
def test_a_clock_that_is_kept_says_how_far_off_it_may_be(status: int, offset: int) -> None:
    facts = read_timex(Timex(offset=-1500, maxerror=250, status=status), 0)
    assert (facts.offset_ns, facts.uncertainty_ns, facts.synced) == (offset, 250_000, True)


@pytest.mark.parametrize(("status", "answer"), [(STA_UNSYNC, 0), (0, TIME_ERROR)])
def test_a_clock_that_nothing_keeps_is_said_to_be_loose(status: int, answer: int) -> None:
    facts = read_timex(Timex(offset=7, maxerror=16_000_000, status=status), answer)
    assert facts.synced is False
    assert facts.offset_ns == facts.uncertainty_ns == Absent("nothing keeps this clock to UTC")


def test_a_system_that_refuses_is_not_guessed_at() -> None:
    facts = read_timex(Timex(), -1)
    assert facts.synced == facts.offset_ns == Absent("the system does not let this process ask")


def test_this_machine_answers() -> None:
    facts = clock_facts()
    assert isinstance(facts, ClockFacts)
    assert facts.synced in (True, False)
    assert isinstance(facts.offset_ns, int) == isinstance(facts.uncertainty_ns, int) == facts.synced
