"""Series of segments: one for each frame stream of a run, one for all its row streams, one for its files.

Everything here runs on the writer thread. A series opens a segment with its first item and rolls by size and age. When a segment's disk fails, its durable
part is left to recovery and the items that never became durable are written again into a new one; the writer waits for a disk that takes it,
and meanwhile the inlets push back.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.errors import DiskError
from edge_agent.model import Cause, Gap, Reset, RunContext, Stream
from edge_agent.record.continuity import Continuity, gap_leaf
from edge_agent.record.items import AdoptedItem, FrameItem, RowsItem
from edge_agent.record.segment_writer import Closed, SegmentWriter
from edge_agent.record.session import Session
from edge_agent.record.table import Table
from edge_agent.seal import leaf
from edge_agent.seal.policy import policy_digest
from edge_agent.segment import layout
from edge_agent.segment.layout import StreamLayout
from edge_agent.storage import Storage

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """When a segment closes: at ``size`` bytes once it is ``min_age`` s old, at ``max_size`` or ``max_age`` in any case."""

    size: int = 256 * MIB
    min_age: float = 30.0
    max_size: int = 4096 * MIB
    max_age: float = 600.0

    def reached(self, stored: int, age: float) -> bool:
        """Whether it is time."""
        return (stored >= self.size and age >= self.min_age) or stored >= self.max_size or age >= self.max_age


FRAME_LIMITS = Limits()
ROW_LIMITS = Limits(min_age=0.0, max_size=256 * MIB, max_age=3600.0)


@dataclass(slots=True)
class RunState:
    """What the series of one run share. ``ordinal`` is the last one given; ``previous`` maps a series to its last segment."""

    run: RunContext
    site: str
    folder: Path
    session: Session
    storage: Storage
    record: Callable[[], str]
    context: Callable[[], bytes]
    closed: Callable[[Closed], None]
    broken: Callable[[SegmentWriter], None]
    wait_for_disk: Callable[[DiskError], None]
    now_ns: Callable[[], int]
    ordinal: int = 0
    previous: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    last_seq: dict[str, int] = field(default_factory=dict)
    last_time: dict[str, int] = field(default_factory=dict)

    @property
    def policy(self) -> bytes:
        """Digest of the run's label."""
        return policy_digest(self.run.label.access.value, self.run.label.allowed)


class Series(ABC):
    """A series named ``name`` of one run."""

    with_data = True

    def __init__(self, state: RunState, name: str, limits: Limits, preallocate: int = 0) -> None:
        """Open nothing yet."""
        self.state = state
        self.name = name
        self.limits = limits
        self.preallocate = preallocate
        self.segment: SegmentWriter | None = None

    def write(self, item: Any) -> None:
        """Write an item; moves to a new segment as often as the disk demands."""
        try:
            self._safely(lambda: self._write(item))
        except Exception:
            item.finished()
            raise
        segment = self.segment
        if segment is not None and (self.limits.reached(segment.stored_bytes, segment.age) or self._full()):
            self.roll("rolled")

    def gap(self, stream: Stream, gap: Gap) -> None:
        """Write a declared gap."""
        self._safely(lambda: self._gap(stream, gap))

    def begin(self) -> None:
        """Open a segment although there is nothing to write."""

        def step() -> None:
            self._open()

        self._safely(step)

    def tick(self) -> None:
        """Close what is old, replace what failed."""
        segment = self.segment
        if segment is None:
            return
        if segment.failed is not None:
            self._fail_over(segment.failed)
        elif self.limits.reached(segment.stored_bytes, segment.age):
            self.roll("rolled")

    def roll(self, reason: str, outcome: str = "") -> None:
        """Close the open segment, if there is one."""
        while self.segment is not None:
            segment = self.segment
            try:
                objects = self._closing(outcome) if self.with_data else {}
                closed = segment.close(objects, self.state.policy, outcome, reason)
            except DiskError as error:
                self._fail_over(error)
                continue
            self.segment = None
            self.state.previous[self.name] = (closed.segment_id, closed.head)
            self.state.last_time.update(closed.last_time)
            self.state.closed(closed)

    def _safely(self, step: Callable[[], None]) -> None:
        while True:
            try:
                if self.segment is not None and self.segment.failed is not None:
                    raise self.segment.failed
                step()
            except DiskError as error:
                self._fail_over(error)
            else:
                return

    def _fail_over(self, error: DiskError) -> None:
        """Give the segment up and write its unconfirmed items again."""
        broken, self.segment = self.segment, None
        items: Sequence[Any] = []
        if broken is not None:
            items = broken.unconfirmed()
            broken.abandon()
            self._rewind(broken)
            self.state.broken(broken)
        self.state.wait_for_disk(error)
        for item in items:
            self._safely(lambda item=item: self._write(item))  # type: ignore[misc]

    def _open(self) -> SegmentWriter:
        if self.segment is None:
            self.segment = self._new()
        return self.segment

    def _new(self) -> SegmentWriter:
        state = self.state
        ordinal = state.ordinal + 1
        opening = leaf.Open(
            agent_id=state.session.agent_id,
            run_id=state.run.run_id,
            run_no=state.run.run_no,
            ordinal=ordinal,
            previous=state.previous.get(self.name),
            policy=state.policy,
            boot_id=state.session.boot_id,
            segment_id=os.urandom(16),
            series=self.name,
            last_seq=self._last_seq(),
        )
        name = f"{state.run.name}_{self.name.replace('/', '_')}_{ordinal:06d}.h5"
        segment = SegmentWriter(
            state.folder, name, opening, state.context(), state.session, state.storage,
            preallocate=self.preallocate, with_data=self.with_data,
        )  # fmt: skip
        if self.with_data:
            segment.add(layout.entry_objects(state.run, state.site, ordinal, self.name, state.record()))
        state.ordinal = ordinal
        return segment

    def _closing(self, outcome: str) -> layout.Objects:
        return layout.closing_objects(self.state.now_ns(), outcome)

    def _last_seq(self) -> dict[str, int]:
        return {}

    def _rewind(self, broken: SegmentWriter) -> None:
        """Forget what the broken segment had not made durable."""

    def _full(self) -> bool:
        return False

    @abstractmethod
    def _write(self, item: Any) -> None: ...

    @abstractmethod
    def _gap(self, stream: Stream, gap: Gap) -> None: ...


class FrameSeries(Series):
    """The frames of one stream."""

    def __init__(self, state: RunState, stream: Stream, limits: Limits = FRAME_LIMITS, preallocate: int = 0) -> None:
        """Continue the counter where the run's last segment of this stream ended."""
        super().__init__(state, stream.key, limits, preallocate)
        self.stream = stream
        self.continuity = Continuity(stream.key, stream.step, state.last_seq.get(stream.key))
        self.continuity.last_time = state.last_time.get(stream.key, self.continuity.last_time)
        self.first_cause = Cause.CRASH if self.continuity.last is not None else Cause.SOURCE
        self._layout: StreamLayout | None = None
        self._table: Table | None = None

    def describe(self, stream: Stream) -> None:
        """Take a new description; another type, shape or unit begins a new segment."""
        if stream != self.stream:
            self.roll("rolled")
            self.stream = stream

    def reset(self, reset: Reset) -> None:
        """The source's counter began again."""

        def step() -> None:
            segment = self._ready()
            for each in self.continuity.reset(reset):
                segment.append_leaf(each.payload())

        self._safely(step)

    def _ready(self) -> SegmentWriter:
        segment = self._open()
        if self._table is None or self._table.segment is not segment:
            self._layout = layout.stream_layout(self.stream, default=True)
            assert self._layout.data is not None  # noqa: S101 - a frame stream's layout has data
            segment.add(self._layout.objects, (self._layout.data, *self._layout.table.dsds))
            self._table = Table(segment, self._layout.table, self.stream.key)
        return segment

    def _write(self, item: FrameItem) -> None:
        encoded = item.encoded.result()
        segment = self._ready()
        table, data = self._table, self._layout.data if self._layout else None
        assert table is not None  # noqa: S101
        assert data is not None  # noqa: S101
        frame = item.frame
        for each in self.continuity.before(frame.number, frame.t_arrival, self.first_cause):
            if isinstance(each, leaf.GapLeaf):
                segment.gap(each)
            else:
                segment.append_leaf(each.payload())
        self.first_cause = Cause.SOURCE
        offset = (table.rows, *(0 for _ in self.stream.shape))
        segment.chunk(data.path, offset, encoded.stored, encoded.mask, encoded.digest, frame.t_arrival, table.rows + 1, frame.number)
        table.append(item.columns(), frame.t_arrival)
        segment.count(item)

    def _gap(self, stream: Stream, gap: Gap) -> None:
        segment = self._ready()
        for each in self.continuity.declared(gap):
            segment.gap(each)

    def _closing(self, outcome: str) -> layout.Objects:
        assert self.segment is not None  # noqa: S101
        if self._table is not None:
            self._table.flush()
        gaps = self.segment.gaps.get(self.stream.key, [])
        if self.continuity.last is not None:
            self.state.last_seq[self.stream.key] = self.continuity.last
        return layout.gap_objects(layout.stream_group(self.stream), gaps) | super()._closing(outcome)

    def _last_seq(self) -> dict[str, int]:
        last = self.continuity.last
        return {} if last is None or last < 0 else {self.stream.key: last}

    def _rewind(self, broken: SegmentWriter) -> None:
        self.continuity.last = broken.confirmed_seq.get(self.stream.key, broken.opening.last_seq.get(self.stream.key))

    def _full(self) -> bool:
        return self._table is not None and self._table.rows >= layout.MAX_CHUNKS


class RowSeries(Series):
    """All row streams of a run, in one file."""

    def __init__(self, state: RunState, limits: Limits = ROW_LIMITS) -> None:
        """Open nothing yet."""
        super().__init__(state, "rows", limits)
        self.streams: dict[str, Stream] = {}
        self._tables: dict[str, Table] = {}
        self._interrupted = dict(state.last_time)

    def describe(self, stream: Stream) -> None:
        """Take a description; a changed one begins a new segment, because the open file already says the old one."""
        known = self.streams.get(stream.key)
        if known is not None and known != stream and stream.key in self._tables:
            self.roll("rolled")
        self.streams[stream.key] = stream

    def _table(self, stream: Stream) -> Table:
        segment = self._open()
        table = self._tables.get(stream.key)
        if table is None or table.segment is not segment:
            self._tables = {key: t for key, t in self._tables.items() if t.segment is segment}
            shape = layout.stream_layout(stream, default=not self._tables)
            segment.add(shape.objects, shape.table.dsds)
            table = self._tables[stream.key] = Table(segment, shape.table, stream.key)
        return table

    def _write(self, item: RowsItem) -> None:
        table = self._table(self.streams[item.key])
        before = self._interrupted.pop(item.key, None)
        if before is not None:
            table.segment.gap(leaf.GapLeaf(item.key, None, None, Cause.CRASH.value, None, before, item.t_arrival, "the agent was not running"))
        table.append(item.columns, item.t_arrival)
        table.segment.count(item)

    def _gap(self, stream: Stream, gap: Gap) -> None:
        self.streams.setdefault(stream.key, stream)
        self._table(self.streams[stream.key]).segment.gap(gap_leaf(stream.key, gap))

    def _closing(self, outcome: str) -> layout.Objects:
        assert self.segment is not None  # noqa: S101
        objects: layout.Objects = {}
        for key, table in self._tables.items():
            table.flush()
            objects |= layout.gap_objects(layout.stream_group(self.streams[key]), self.segment.gaps.get(key, []))
        self._tables = {}
        return objects | super()._closing(outcome)

    def _full(self) -> bool:
        return any(table.rows >= layout.MAX_CHUNKS * table.layout.chunk for table in self._tables.values())


class FileSeries(Series):
    """The vendor files of a run: a tree without an HDF5 file."""

    with_data = False

    def __init__(self, state: RunState, limits: Limits = ROW_LIMITS) -> None:
        """Open nothing yet."""
        super().__init__(state, "files", limits)

    def _write(self, item: AdoptedItem) -> None:
        segment = self._open()
        segment.append_leaf(leaf.FileLeaf(item.path, item.item.size, item.root, item.digest, item.item.mtime_ns).payload())
        segment.count(item)

    def _gap(self, stream: Stream, gap: Gap) -> None:
        self._open().gap(gap_leaf(stream.key, gap))
