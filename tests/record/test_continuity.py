"""Whatever a counter does, the leaves satisfy the Continuity rule of docs/signed-chunks.md and account for every number."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.model import NO_TIME, Cause, Gap, Reset
from edge_agent.record.continuity import Continuity
from edge_agent.seal.leaf import GapLeaf, SeqReset

KEY = "camera/image"


@dataclass
class Rule:
    """The rule as the page states it, over what stands in a tree."""

    step: int
    following: int | None = None

    def see(self, event: int | GapLeaf | SeqReset) -> None:
        if isinstance(event, SeqReset):
            self.following = event.first
            return
        if isinstance(event, GapLeaf):
            if event.first is None:
                assert event.last is None
                return
            first, last = event.first, event.last
            assert last is not None
            assert last >= first
            assert event.count is None or event.count == (last - first) // self.step + 1
        else:
            first = last = event
        assert self.following is None or first == self.following, f"{event} where {self.following} must come"
        self.following = last + self.step


NUMBERS = st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 2))
EVENTS = st.one_of(
    st.tuples(st.just("frame"), NUMBERS, st.just(0)),
    st.tuples(st.just("next"), st.integers(0, 3), st.just(0)),
    st.tuples(st.sampled_from(["gap", "refused"]), NUMBERS, st.integers(0, 9)),
    st.tuples(st.just("unnumbered"), st.just(0), st.just(0)),
    st.tuples(st.just("half"), NUMBERS, st.just(0)),
    st.tuples(st.just("reset"), NUMBERS, st.just(0)),
)


@given(st.integers(1, 4), st.one_of(st.none(), st.integers(0, 20)), st.lists(EVENTS, max_size=20))
def test_any_sequence_of_frames_gaps_refusals_and_resets_satisfies_the_rule(
    step: int, last: int | None, events: list[tuple[str, int, int]]
) -> None:
    counter = Continuity(KEY, step, last)
    rule = Rule(step, None if last is None else last + step)
    for kind, number, length in events:
        leaves: list[int | GapLeaf | SeqReset]
        if kind in ("frame", "next"):
            if kind == "next":
                number = (counter.last if counter.last is not None else 0) + step * (1 + number)
            leaves = [*counter.before(number, 5), number]
            assert counter.last == number
        elif kind == "reset":
            leaves = [*counter.reset(Reset(Cause.RESTART, None, number))]
        elif kind == "refused":
            leaves = [*counter.refused(Gap(Cause.OVERLOAD, number, number + length * step, length + 1))]
            assert counter.last == number + length * step
        else:
            first = None if kind == "unnumbered" else number
            gap = Gap(Cause.OVERFLOW, first, None if kind in ("unnumbered", "half") else number + length)
            leaves = [*counter.declared(gap)]
        for each in leaves:
            rule.see(each)


@given(st.integers(1, 3), st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=25))
def test_every_number_of_a_rising_counter_is_a_frame_or_in_exactly_one_gap(step: int, jumps: list[tuple[int, bool]]) -> None:
    counter = Continuity(KEY, step, 0)
    accounted: list[int] = []
    number = 0
    for jump, refused in jumps:
        number += jump * step
        if refused:
            leaves = counter.refused(Gap(Cause.OVERLOAD, number, number, 1))
        else:
            leaves = counter.before(number, 5)
        for each in leaves:
            assert isinstance(each, GapLeaf)
            assert each.first is not None
            assert each.last is not None
            accounted += range(each.first, each.last + 1, step)
        if not refused:
            accounted.append(number)
    assert accounted == list(range(step, number + 1, step))


@given(st.integers(1, 3), st.lists(st.integers(1, 4), min_size=1, max_size=25))
def test_what_was_refused_and_what_did_not_come_between_are_counted_apart_however_many_holes_there_are(step: int, jumps: list[int]) -> None:
    counter = Continuity(KEY, step, 0)
    numbers = [step * sum(jumps[: n + 1]) for n in range(len(jumps))]
    leaves = counter.refused(Gap(Cause.OVERLOAD, numbers[0], numbers[-1], len(numbers), detail="no room"))
    counts: dict[str, int] = {}
    for each in leaves:
        assert isinstance(each, GapLeaf)
        assert each.count is not None
        counts[each.cause] = counts.get(each.cause, 0) + each.count
    assert counts == {"overload": len(jumps)} | ({"source": sum(jumps) - len(jumps)} if sum(jumps) > len(jumps) else {})
    assert len(leaves) <= 3
    assert counter.last == numbers[-1]


def test_a_gap_that_the_adapter_declares_twice_counts_once() -> None:
    counter = Continuity(KEY, 1, 10)
    (first,) = counter.declared(Gap(Cause.OVERFLOW, 11, 15, 5))
    assert counter.declared(Gap(Cause.OVERFLOW, 11, 15, 5)) == []
    (rest,) = counter.declared(Gap(Cause.OVERFLOW, 13, 17, 5))
    assert isinstance(first, GapLeaf)
    assert isinstance(rest, GapLeaf)
    assert [(g.first, g.last, g.count) for g in (first, rest)] == [(11, 15, 5), (16, 17, 2)]


def test_numbers_that_did_not_come_need_not_be_all_that_is_missing() -> None:
    counter = Continuity(KEY, 1, 10)
    assert counter.declared(Gap(Cause.DISCONNECT, 11, 15, None, 1, 2)) == [GapLeaf(KEY, 11, 15, "disconnect", None, 1, 2)]
    assert counter.last == 15


def test_a_number_beside_the_step_is_a_reset_and_not_an_impossible_gap() -> None:
    counter = Continuity(KEY, 2, 10)
    assert counter.before(13, 5) == [
        GapLeaf(KEY, 12, 12, "source", 1, NO_TIME, 5),
        SeqReset(KEY, 12, 13, "restart"),
    ]
    assert counter.before(14, 6) == [SeqReset(KEY, 13, 14, "restart")]


def test_a_counter_that_began_again_while_the_agent_was_down_leaves_a_gap_of_unknown_size() -> None:
    counter = Continuity(KEY, 1, 500, last_time=7)
    assert counter.before(3, 90, Cause.CRASH) == [
        GapLeaf(KEY, None, None, "crash", None, 7, 90),
        SeqReset(KEY, 500, 3, "restart"),
    ]
    counter = Continuity(KEY, 1, 500, last_time=7)
    assert counter.reset(Reset(Cause.RESTART, 500, 0), Cause.CRASH) == [
        GapLeaf(KEY, None, None, "crash", None, 7, NO_TIME),
        SeqReset(KEY, 500, 0, "restart"),
    ]


def test_a_jump_that_no_table_can_hold_has_no_count() -> None:
    (gap,) = Continuity(KEY, 1, 0).before(2**64 - 2, 5)
    assert isinstance(gap, GapLeaf)
    assert gap.count is None


def test_a_counter_that_had_nothing_durable_before_a_crash_says_that_its_beginning_is_unknown() -> None:
    counter = Continuity("a/b", 1, None, last_time=100)
    (gap,) = counter.before(7, 200, Cause.CRASH)
    assert isinstance(gap, GapLeaf)
    assert (gap.first, gap.last, gap.count, gap.cause, gap.t_from, gap.t_to) == (None, None, None, "crash", 100, 200)
    assert counter.before(8, 300) == []
    assert Continuity("a/b", 1, None).before(7, 200) == []
