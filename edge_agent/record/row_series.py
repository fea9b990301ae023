"""The segments of all row streams of a run: one table a stream, all in one file."""

from __future__ import annotations

from typing import Any

from edge_agent.model import Cause, Gap, Stream
from edge_agent.record.continuity import gap_leaf
from edge_agent.record.items import GapItem, Item, RowsItem
from edge_agent.record.series import ROW_LIMITS, Limits, RunState, Series
from edge_agent.record.table import Table
from edge_agent.segment import layout


class RowSeries(Series):
    """See the module."""

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

    def _write(self, item: Item) -> None:
        if isinstance(item, GapItem):
            self._gap(item)
            return
        assert isinstance(item, RowsItem)  # noqa: S101 - by the channel
        if item.stream is not self.streams.get(item.key):
            # It waited for its turn while another description came.
            self.describe(item.stream)
        self._declare_interruption(item)
        table = self._table(item.stream)
        table.append(item.columns, item.t_arrival)
        table.segment.settle(item)

    def _gap(self, item: GapItem) -> None:
        self.streams.setdefault(item.key, item.stream)
        segment = self._table(self.streams[item.key]).segment
        segment.gap(gap_leaf(item.key, item.gap))
        segment.settle(item)

    def _declare_interruption(self, item: RowsItem) -> None:
        """The first rows after a crash say until when something may be missing."""
        since = self._interrupted.get(item.key)
        if since is not None:
            detail = "the agent was not running"
            self._gap(GapItem(item.stream, Gap(Cause.CRASH, None, None, None, since, item.t_arrival, detail)))
            del self._interrupted[item.key]

    def _table(self, stream: Stream) -> Table:
        segment = self._open()
        table = self._tables.get(stream.key)
        if table is None:
            made = layout.stream_layout(stream, default=not self._tables)
            segment.add(made.objects, made.table.dsds)
            table = self._tables[stream.key] = Table(segment, made.table, stream.key)
        return table

    def _closing(self, outcome: str) -> layout.Objects:
        assert self.segment is not None  # noqa: S101
        objects: layout.Objects = {}
        for key, table in self._tables.items():
            table.flush()
            objects |= layout.gap_objects(layout.stream_group(self.streams[key]), self.segment.gaps.get(key, []))
        self._tables = {}
        return objects | super()._closing(outcome)

    def _rewind(self, mark: Any) -> None:
        if self.segment is None:
            self._tables = {}

    def _full(self) -> bool:
        return any(table.rows >= layout.MAX_CHUNKS * table.layout.chunk for table in self._tables.values())
