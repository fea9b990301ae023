"""Compares what landed with what the instruments say they sent. Knows the truth files and nothing of the agent.

A landed value must be in the truth; a truth item that did not land must lie in a declared gap: by number where the source counts,
by time where it does not. Anything else makes the stream *not the same as its source*.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from firmware_sim.truth import Item, Truth

UNKNOWN = 2**64 - 1
SLACK_NS = 300_000_000
"""A gap's times are those of this machine's arrivals; what was sent just before or after it may be part of it."""


@dataclass(slots=True)
class Landed:
    """One stream as it landed, over all segments of all runs."""

    numbers: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    gaps: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``lost`` of ``sent`` lie in declared gaps; ``same`` says that nothing else differs; ``why`` names the first difference.

    ``at``: when what differs was sent, or was said to be (UTC ns); of files nothing.
    """

    sent: int
    landed: int
    lost: int
    gaps: int
    same: bool
    why: str
    at: tuple[int, ...] = ()


def judge(truth: Truth, stream: str, landed: Landed | None) -> Verdict:
    """Compare one stream."""
    items = truth.of(stream)
    found = landed or Landed()
    if truth.header.protocol == "files":
        return _judge_files(items, found)
    if any(item.sha256 for item in items) and not found.values:
        return _judge_frames(items, found)
    return _judge_by_time(items, found) if truth.header.protocol != "serial" else _judge_in_order(items, found)


def _judge_files(items: Sequence[Item], landed: Landed) -> Verdict:
    wanted = {item.path: item.sha256 for item in items}
    wrong = [name for name, digest in landed.files.items() if wanted.get(name) != digest]
    missing = [name for name in wanted if name not in landed.files]
    why = f"{wrong[0]} is not what was written" if wrong else f"{missing[0]} is missing" if missing else ""
    return Verdict(len(items), len(landed.files) - len(wrong), 0, len(landed.gaps), not why, why)


def _judge_frames(items: Sequence[Item], landed: Landed) -> Verdict:
    """By number and pixels. A counter may begin again, and a frame that is sent twice need not land twice."""
    exposures = [(item.unique_id if item.unique_id is not None else item.n, item.sha256) for item in items]
    told = dict(zip(exposures, items, strict=True))
    sent, have = Counter(exposures), Counter(zip(landed.numbers, landed.digests, strict=True))
    wrong = [n for n, digest in have if (n, digest) not in sent]
    twice = [n for (n, digest), count in have.items() if count > sent[n, digest] > 0]
    missing = [exposure for exposure in sent if exposure not in have]
    undeclared = [exposure for exposure in missing if not _frame_declared(exposure[0], told[exposure], landed)]
    why = ""
    if wrong:
        why = f"frame {wrong[0]} is not what was sent"
    elif twice:
        why = f"frame {twice[0]} landed twice"
    elif undeclared:
        why = f"frame {undeclared[0][0]} is missing and no gap says so"
    times = {number: item.t - (item.clock or 0) for (number, _), item in told.items()}
    at = [times[number] for number in [*wrong, *twice, *(number for number, _ in undeclared)] if number in times]
    return Verdict(len(sent), len(have) - len(wrong), len(missing) - len(undeclared), len(landed.gaps), not why, why, tuple(at))


def _judge_by_time(items: Sequence[Item], landed: Landed) -> Verdict:
    """Values that carry their source's time, which is unique."""
    wanted = {item.t: item.v for item in items}
    have = dict(zip(landed.times, landed.values, strict=True))
    wrong = [t for t, value in have.items() if t not in wanted or not _equal(wanted[t], value)]
    missing = [item for item in items if item.t not in have]
    undeclared = [item for item in missing if not _declared(item, landed)]
    why = ""
    if len(have) != len(landed.times):
        why = "a value landed twice"
    elif wrong:
        why = f"the value at {wrong[0]} is not what was sent"
    elif undeclared:
        why = f"value {undeclared[0].n} is missing and no gap says so"
    at = (*wrong, *(item.t - (item.clock or 0) for item in undeclared))
    return Verdict(len(items), len(have) - len(wrong), len(missing) - len(undeclared), len(landed.gaps), not why, why, at)


def _judge_in_order(items: Sequence[Item], landed: Landed) -> Verdict:
    """Values without a time of their own: they must stand in the truth in the same order.

    Of equal values nobody sees which one is missing: it is enough that one way to pair them leaves out nothing but what is declared.
    """
    verdict = _paired_as_they_come(items, landed)
    if not verdict.same and _can_be_paired(items, landed):
        return Verdict(len(items), len(landed.values), len(items) - len(landed.values), len(landed.gaps), True, "")
    return verdict


def _can_be_paired(items: Sequence[Item], landed: Landed) -> bool:
    """Whether the values are the items in order, without some that are declared."""
    paired = {0}  # how many values may be paired with the items so far
    for item in items:
        further = {n + 1 for n in paired if n < len(landed.values) and _same(item, landed.values[n])}
        paired = further | paired if _declared(item, landed) else further
    return len(landed.values) in paired


def _paired_as_they_come(items: Sequence[Item], landed: Landed) -> Verdict:
    """Each value is paired with the first item that fits."""
    matched = 0
    missing: list[Item] = []
    position = 0
    for value in landed.values:
        begin = position
        while position < len(items) and not _same(items[position], value):
            position += 1
        if position == len(items):
            return Verdict(
                len(items),
                matched,
                len(missing),
                len(landed.gaps),
                False,
                f"value {value} (the {matched + 1}th) was not sent, or not in this order",
                tuple(item.t - (item.clock or 0) for item in items[begin : begin + 1]),
            )
        missing += items[begin:position]
        matched += 1
        position += 1
    missing += items[position:]
    undeclared = [item for item in missing if not _declared(item, landed)]
    why = f"value {undeclared[0].n} is missing and no gap says so" if undeclared else ""
    at = tuple(item.t - (item.clock or 0) for item in undeclared)
    return Verdict(len(items), matched, len(missing) - len(undeclared), len(landed.gaps), not why, why, at)


def _declared(item: Item, landed: Landed) -> bool:
    return any(_within(item, start, end) for _, _, _, start, end in landed.gaps)


def _within(item: Item, start: int, end: int) -> bool:
    """By the instrument's own time, or by the true one where its clock was wrong: gaps are told by either."""
    return any(start - SLACK_NS <= t <= end + SLACK_NS for t in (item.t, item.t - (item.clock or 0)))


def _frame_declared(number: int, item: Item, landed: Landed) -> bool:
    """By its number; by its time where the gap does not know how many are missing."""
    numbered = any(first <= number <= last for first, last, *_ in landed.gaps if first != UNKNOWN)
    return numbered or any(_within(item, start, end) for first, _, count, start, end in landed.gaps if first == UNKNOWN or count < 0)


def _same(item: Item, value: Any) -> bool:
    """Of an item of many numbers, the truth has the digest."""
    if item.sha256 is None:
        return _equal(item.v, value)
    return hashlib.sha256(np.asarray(value, item.dtype).tobytes()).hexdigest() == item.sha256


def _equal(sent: Any, value: Any) -> bool:
    if isinstance(value, bytes):
        return isinstance(sent, str) and sent.encode() == value
    if isinstance(sent, float) and sent != sent:
        return bool(value != value)
    return bool(sent == value)
