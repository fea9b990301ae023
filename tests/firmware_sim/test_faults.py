from __future__ import annotations

import itertools

import pytest

from firmware_sim.faults import Fault, FaultError, Timetable, parse_fault, random_faults

KNOWN = {"drop": "drops", "reset": "resets", "clockstep": "sets the clock"}


def test_a_fault_is_kind_time_and_argument() -> None:
    assert parse_fault("drop@2.5:10", KNOWN) == Fault(2.5, "drop", "10")
    assert parse_fault("reset@0", KNOWN) == Fault(0.0, "reset", None)
    assert parse_fault("drop@1:7", KNOWN).number(3) == 7
    assert parse_fault("drop@1", KNOWN).number(3) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drop", "write for example drop@2.5:10"),
        ("drop@", "write for example"),
        ("drop@soon", "write for example"),
        ("drop@-1", "write for example"),
        ("drop@nan", "write for example"),
        ("drop@inf", "write for example"),
        ("explode@1", "it knows: drop, reset, clockstep"),
        ("drop@1:many", "must be a number"),
        ("drop@1:-3", "must be a number"),
        ("drop@1:nan", "must be a number"),
    ],
)
def test_a_fault_that_cannot_be_scheduled_is_refused_with_a_cure(text: str, message: str) -> None:
    with pytest.raises(FaultError, match=message):
        parse_fault(text, KNOWN)


def test_only_a_clock_may_be_set_back() -> None:
    assert parse_fault("clockstep@1:-3600", KNOWN).signed(5) == -3600
    assert parse_fault("clockstep@1", KNOWN).signed(5) == 5
    with pytest.raises(FaultError, match="must be a number"):
        parse_fault("clockstep@1:--2", KNOWN)


def test_random_faults_come_at_the_mean_rate_mixed_in_by_time_and_again_with_the_same_seed() -> None:
    def take(seed: int) -> list[Fault]:
        return list(itertools.islice(random_faults(seed, ("drop", "reset"), 2.0), 1000))

    faults = take(1)
    assert faults == take(1) != take(2)
    assert 1800 < faults[-1].at < 2200
    assert {fault.kind for fault in faults} == {"drop", "reset"}
    timetable = Timetable([Fault(faults[0].at + 1e-6, "clockstep")], random_faults(1, ("drop", "reset"), 2.0))
    assert timetable.due(faults[1].at) == [faults[0], Fault(faults[0].at + 1e-6, "clockstep"), faults[1]]
    assert list(random_faults(1, (), 2.0)) == []


def test_each_fault_is_due_once_in_order_and_not_before_its_time() -> None:
    late, early, same = Fault(2.0, "drop"), Fault(0.5, "reset"), Fault(0.5, "drop")
    timetable = Timetable([late, early, same])
    assert timetable.due(0.4) == []
    assert timetable.due(0.5) == [early, same]
    assert timetable.due(0.6) == []
    assert timetable.due(9.0) == [late]
    assert timetable.due(99.0) == []
