"""Compares what landed with what the instruments say they sent. Knows the files (docs/layout.md) and the truth files, nothing of the agent.

A landed value must be in the truth; a truth item that did not land must lie in a declared gap: by number where the source counts,
by time where it does not. Anything else makes the stream *not the same as its source*.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers the filters for normal reading
import numpy as np

from firmware_sim.truth import Item, Truth

INITIAL = 2
NO_TIME = -(2**63)
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


def read_space(space: Path) -> dict[str, Landed]:
    """All streams below a project space, by ``instrument/stream``."""
    found: dict[str, Landed] = {}
    for path in sorted([*space.rglob("*.h5"), *space.rglob("*.nxs")]):
        with h5py.File(path, "r") as file:
            if "entry/integrity" in file:
                _read_segment(file, found)
    for path in sorted(p for p in space.rglob("files/*/**/*") if p.is_file()):
        parts = path.relative_to(space).parts
        below = parts.index("files")
        landed = found.setdefault(f"{parts[below + 1]}/files", Landed())
        landed.files["/".join(parts[below + 2 :])] = hashlib.sha256(path.read_bytes()).hexdigest()
    for landed in found.values():
        # A day's run and the sessions in it take turns.
        in_time = sorted(zip(landed.times, landed.values, strict=True), key=lambda pair: pair[0])
        landed.times, landed.values = [t for t, _ in in_time], [value for _, value in in_time]
    return found


def _read_segment(file: h5py.File, found: dict[str, Landed]) -> None:
    for group in file["entry/instrument"].values():
        if not isinstance(group, h5py.Group):
            continue
        for stream in group.values():
            if not isinstance(stream, h5py.Group) or "source_id" not in stream.attrs:
                continue
            landed = found.setdefault(stream.attrs["source_id"], Landed())
            if "data" in stream:
                landed.numbers += [int(n) for n in stream["frame_number"][()]]
                landed.digests += [hashlib.sha256(frame.tobytes()).hexdigest() for frame in stream["data"]]
            else:
                _add_rows(landed, *_columns(stream))
            landed.gaps += _gaps(stream["gaps"])
    if "entry/tags" in file:
        _read_tags(file["entry/tags"], found)


def _read_tags(tags: h5py.Group, found: dict[str, Landed]) -> None:
    """Streams that share tables: whose a row is, its column ``tag`` says."""
    sources, tables = (tags[name].asstr()[()] for name in ("source_id", "table"))
    for name in set(tables):
        owner = tags[name]["tag"][()]
        order = np.argsort(owner, kind="stable")
        starts = np.searchsorted(owner[order], np.arange(len(sources) + 1))
        columns = _columns(tags[name])
        for number in np.flatnonzero(tables == name):
            mine = order[starts[number] : starts[number + 1]]
            _add_rows(found.setdefault(sources[number], Landed()), *(column[mine] for column in columns))
    for source, gap in zip(tags["gaps/source_id"].asstr()[()], _gaps(tags["gaps"]), strict=True):
        found[source].gaps.append(gap)


def _columns(table: h5py.Group) -> tuple[Any, ...]:
    return tuple(table[name][()] for name in ("valid", "time", "time_arrival", "value"))


def _add_rows(landed: Landed, valid: Any, time: Any, arrival: Any, values: Any) -> None:
    events = valid != INITIAL
    landed.values += values[events].tolist()
    landed.times += np.where(time == NO_TIME, arrival, time)[events].tolist()


def _gaps(gaps: h5py.Group) -> list[tuple[int, int, int, int, int]]:
    columns = [gaps[name][()].tolist() for name in ("first", "last", "count", "time_from", "time_to")]
    return [(a, b, c, d, e) for a, b, c, d, e in zip(*columns, strict=True)]


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
    """Values without a time of their own: they must stand in the truth in the same order."""
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
    """By its number; by its time where the gap knows no numbers."""
    numbered = any(first <= number <= last for first, last, *_ in landed.gaps if first != UNKNOWN)
    return numbered or any(_within(item, start, end) for first, _, _, start, end in landed.gaps if first == UNKNOWN)


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
