"""Gaps over which a clock was set back: no gap ends before it begins, whoever declares it, and what the clock showed is kept in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.model import NO_TIME, Cause, Gap
from edge_agent.record.continuity import Continuity
from edge_agent.seal.leaf import GapLeaf

HOUR = 3_600_000_000_000
T = 1_795_000_000_000_000_000
TOLD = "told to begin at 2026-11-18T11:06:40.000000000Z, 3595 s after its end: a clock was set back in between, or there are two"

times = st.one_of(st.just(NO_TIME), st.integers(0, 2**63 - 1))


@given(times, times)
def test_no_gap_ends_before_it_begins(t_from: int, t_to: int) -> None:
    gap = Gap(Cause.DISCONNECT, t_from=t_from, t_to=t_to)
    assert gap.t_to == t_to, "when it ended is known by the clock as it is"
    assert NO_TIME in (gap.t_from, gap.t_to) or gap.t_from <= gap.t_to
    assert (gap.t_from, gap.detail) == (t_from, "") or (gap.t_from == NO_TIME and gap.detail)
    assert replace(gap) == gap


def test_what_a_clock_that_was_set_back_showed_is_kept_in_words() -> None:
    back = T - HOUR + 5_000_000_000
    assert Gap(Cause.DISCONNECT, t_from=T, t_to=back) == Gap(Cause.DISCONNECT, t_from=NO_TIME, t_to=back, detail=TOLD)
    assert Gap(Cause.DISCONNECT, t_from=T, t_to=back, detail="the plug").detail == f"the plug; {TOLD}"


def test_a_hole_that_the_recorder_finds_over_a_step_back_is_told_likewise() -> None:
    back = T - HOUR + 5_000_000_000
    counter = Continuity("camera/image", 1, 10, last_time=T)
    assert counter.before(14, back) == [GapLeaf("camera/image", 11, 13, "source", 3, NO_TIME, back, TOLD)]
    counter = Continuity("camera/image", 1, 10, last_time=T)
    (gap, _) = counter.before(2, back, Cause.CRASH)
    assert gap == GapLeaf("camera/image", None, None, "crash", None, NO_TIME, back, TOLD)


async def test_an_outage_over_a_step_back_is_recorded_with_an_unknown_length(rig: Callable[..., Any], kit: Any) -> None:
    run = rig()
    rows, frames = run.recording.rows(kit.BALANCE), run.recording.frames(kit.CAMERA)
    await rows.put(kit.rows(1))
    frames.offer(kit.frame(1))
    for channel in (rows, frames):
        channel.gap(Gap(Cause.DISCONNECT, t_from=T, t_to=T - HOUR + 5_000_000_000))
    for closed in run.close():
        ((_, (gap,)),) = closed.gaps.items()
        assert (gap.cause, gap.count, gap.t_from, gap.detail) == ("disconnect", None, NO_TIME, TOLD)
    kit.check_signed(run.segments(), run.facility)
