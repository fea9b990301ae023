"""The judge accepts what the record says, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.demo.judge import SLACK_NS, UNKNOWN, Landed, judge
from firmware_sim.truth import Header, Item, Protocol, Truth

SECOND = 1_000_000_000
STEP = SECOND


def truth(protocol: Protocol, items: list[Item]) -> Truth:
    return Truth(Header("pump", protocol, 1, {"speed": ""}, 0), tuple(items), (), (), {"speed": len(items)}, {}, True)


def readings(values: list[int]) -> list[Item]:
    return [Item("speed", n, n * STEP, v=value) for n, value in enumerate(values, 1)]


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans()), min_size=1, max_size=30))
def test_of_equal_values_any_may_be_the_one_that_is_missing(sent: list[tuple[int, bool]]) -> None:
    items = readings([value for value, _ in sent])
    landed = Landed(values=[value for value, lost in sent if not lost])
    landed.gaps = [(UNKNOWN, UNKNOWN, 1, item.t, item.t) for item, (_, lost) in zip(items, sent, strict=True) if lost]
    verdict = judge(truth("serial", items), "speed", landed)
    assert verdict.same, verdict
    assert (verdict.landed, verdict.lost) == (len(landed.values), len(landed.gaps))


@given(st.lists(st.booleans(), min_size=2, max_size=30), st.data())
def test_a_value_that_no_gap_covers_is_missed(lost: list[bool], data: st.DataObject) -> None:
    items = readings(list(range(len(lost))))
    silent = data.draw(st.integers(0, len(lost) - 1))
    landed = Landed(values=[n for n, gone in enumerate(lost) if not gone and n != silent])
    landed.gaps = [(UNKNOWN, UNKNOWN, 1, item.t, item.t) for n, item in enumerate(items) if lost[n] and n != silent]
    verdict = judge(truth("serial", items), "speed", landed)
    assert not verdict.same
    assert verdict.at == (items[silent].t,)


def test_a_value_that_was_not_sent_is_extra_whatever_the_gaps_say() -> None:
    everything = [(UNKNOWN, UNKNOWN, -1, 0, 9 * STEP)]
    assert not judge(truth("serial", readings([1, 2, 3])), "speed", Landed(values=[1, 4], gaps=everything)).same
    assert not judge(truth("serial", readings([1, 2, 3])), "speed", Landed(values=[2, 1], gaps=everything)).same


def test_a_frame_is_covered_by_its_number_or_by_its_time_where_nobody_counted() -> None:
    began_again = Item("speed", 2, 5 * STEP, sha256="b", unique_id=1)
    items = [Item("speed", 1, STEP, sha256="a", unique_id=7), began_again, Item("speed", 3, 9 * STEP, sha256="c", unique_id=20)]
    landed = Landed(numbers=[7, 20], digests=["a", "c"], gaps=[(8, 19, -1, STEP, 9 * STEP)])
    assert judge(truth("pva", items), "speed", landed).same
    landed.gaps = [(8, 19, 12, STEP, 9 * STEP)]
    assert not judge(truth("pva", items), "speed", landed).same
    landed.gaps = [(8, 19, -1, STEP, began_again.t - SLACK_NS - 1)]
    assert not judge(truth("pva", items), "speed", landed).same
