"""The segments of one frame stream: one chunk and one row of companions a frame, numbers without a hole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from edge_agent.codec import decoder
from edge_agent.errors import ConfigError
from edge_agent.model import NO_TIME, Cause, Gap, Stream
from edge_agent.record.continuity import Continuity
from edge_agent.record.items import FrameItem, GapItem, Item, ResetItem
from edge_agent.record.segment_writer import SegmentWriter
from edge_agent.record.series import FRAME_LIMITS, Limits, RunState, Series
from edge_agent.record.table import Table
from edge_agent.seal import leaf
from edge_agent.seal.dsd import Dsd
from edge_agent.segment import layout, nxmx

Mark = tuple[int | None, int, Cause]


def unreadable(stream: Stream) -> ConfigError | None:
    """Why no frame of a stream can be recorded on this machine: its codec's library cannot be loaded. None: it can."""
    try:
        decoder(layout.codec_of(stream))
    except ConfigError as error:
        return error
    return None


class FrameSeries(Series):
    """See the module."""

    def __init__(self, state: RunState, stream: Stream, limits: Limits = FRAME_LIMITS) -> None:
        """Continue the counter where the run's last segment of this stream ended; what is missing since then is a crash's."""
        super().__init__(state, stream.key, limits)
        self.stream = stream
        self._unreadable = unreadable(stream)
        self.continuity = Continuity(stream.key, stream.step, state.last_seq.get(stream.key))
        since = self.continuity.last_time if state.interrupted_since is None else state.interrupted_since
        self.continuity.last_time = state.last_time.get(stream.key, since)
        interrupted = self.continuity.last is not None or state.interrupted_since is not None
        self.cause = Cause.CRASH if interrupted else Cause.SOURCE
        self._data: Dsd | None = None
        self._table: Table | None = None

    def describe(self, stream: Stream) -> None:
        """Take a new description; another type, shape or unit begins a new segment."""
        if stream != self.stream:
            self.roll("rolled")
            self.stream = stream
            self._unreadable = unreadable(stream)
            self.continuity.step = stream.step

    def declare_tail(self) -> None:
        """At the end of the run: no frame came since a crash, so nothing has said what is missing since then, and nobody knows how much.

        Raises:
            DiskError: the recorder is stopping and the disk still refuses.
        """
        if self.cause is Cause.CRASH and self.continuity.last is not None:
            since, detail = self.continuity.last_time, "the agent was interrupted, and no frame came after it"
            self.write(GapItem(self.stream, Gap(Cause.CRASH, None, None, None, since, self.state.now_ns(), detail)))

    def _prepare(self, item: Item) -> None:
        if isinstance(item, FrameItem):
            item.result()

    def _write(self, item: Item) -> None:
        if isinstance(item, FrameItem):
            self._frame(item)
        else:
            assert isinstance(item, GapItem | ResetItem)  # noqa: S101 - by the channel
            self._note(item)

    def _frame(self, item: FrameItem) -> None:
        if item.stream is not self.stream:
            # It waited for its turn while another description came.
            self.describe(item.stream)
        if self._unreadable is not None:
            raise self._unreadable
        if self.cause is Cause.CRASH and self._is_told_again(item):
            item.drop()
            return
        encoded = item.result()
        segment, table, data = self._ready()
        if leaves := self.continuity.before(item.number, item.t_arrival, self.cause):
            self._append(segment, leaves)
        self.cause = Cause.SOURCE
        offset = (table.rows, *(0,) * len(self.stream.shape))
        segment.chunk(data.path, offset, encoded.stored, encoded.mask, encoded.digest, item.t_arrival, table.rows + 1, item.number)
        table.append_row(item.row, item.t_arrival)
        # Before a commit can cover it: what is durable belongs to the commit thread.
        item.written()
        segment.settle(item, self._mark(), self.continuity.last)

    def _is_told_again(self, item: FrameItem) -> bool:
        """Whether this is the last frame that was recorded before the crash: a PVA server tells its latest one to whoever connects."""
        return item.number == self.continuity.last and NO_TIME < item.t_source <= self.continuity.last_time

    def _note(self, item: GapItem | ResetItem) -> None:
        # The segment first: its OPEN says where the counter stood before.
        segment, _, _ = self._ready()
        if isinstance(item, ResetItem):
            leaves = self.continuity.reset(item.reset, self.cause)
        elif item.refused:
            leaves = self.continuity.refused(item.gap, self.cause)
        else:
            leaves = self.continuity.declared(item.gap, self.cause)
        if any(isinstance(each, leaf.SeqReset) or each.first is not None for each in leaves):
            self.cause = Cause.SOURCE
        self._append(segment, leaves)
        segment.settle(item, self._mark(), self.continuity.last)

    def _append(self, segment: SegmentWriter, leaves: Sequence[leaf.GapLeaf | leaf.SeqReset]) -> None:
        for each in leaves:
            if isinstance(each, leaf.GapLeaf):
                segment.gap(each)
            else:
                segment.append_leaf(each.payload())

    def _ready(self) -> tuple[SegmentWriter, Table, Dsd]:
        table = self._table
        # Its layout before the segment: one that has no place for its stream could neither be closed nor rebuilt.
        made = None if table is not None and table.segment is self.segment else layout.stream_layout(self._laid_out(), default=True)
        segment = self._open()
        if made is not None:
            assert made.data is not None  # noqa: S101 - a frame stream's layout has data
            segment.add(made.objects, (made.data, *made.table.dsds))
            self._data, self._table = made.data, Table(segment, made.table, self.stream.key)
        assert self._table is not None  # noqa: S101 - made with its segment, like the data
        assert self._data is not None  # noqa: S101
        return segment, self._table, self._data

    def _laid_out(self) -> Stream:
        """The stream as its segments have it; where its frames cannot be recorded, a place to say that they are missing."""
        return self.stream if self._unreadable is None else replace(self.stream, codec="none")

    def _closing(self, outcome: str) -> layout.Objects:
        assert self.segment is not None  # noqa: S101
        if self._table is not None:
            self._table.flush()
        gaps = self.segment.gaps.get(self.stream.key, [])
        ended = layout.iso(self.state.now_ns())
        said = nxmx.detector_objects(self.state.record(), self.name, {self.stream.key: self.stream.shape}, ended)
        return layout.gap_objects(layout.stream_group(self.stream), gaps) | super()._closing(outcome) | said

    def _streams(self) -> Mapping[str, Stream]:
        return {self.stream.key: self.stream}

    def _last_seq(self) -> dict[str, int]:
        last = self.continuity.last
        return {} if last is None or last < 0 else {self.stream.key: last}

    def _mark(self) -> Mark:
        return self.continuity.last, self.continuity.last_time, self.cause

    def _rewind(self, mark: Mark) -> None:
        self.continuity.last, self.continuity.last_time, self.cause = mark
        if self.segment is None:
            self._table = None

    def _open_tables(self) -> Iterable[Table]:
        return () if self._table is None or self._table.segment is not self.segment else (self._table,)

    def _full(self) -> bool:
        return self._table is not None and self._table.rows >= layout.MAX_CHUNKS
