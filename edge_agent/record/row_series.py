"""The segments of all row streams of a run, all in one file: a table a stream, or tables that many tags share.

A stream that any viewer can plot costs a dozen HDF5 objects, so a run with many streams lets them share: where a stream stands is decided
with its first item and holds for the run. Tags keep their numbers over all segments of the run, also those of an earlier
process where the last of them can still be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from edge_agent.model import Cause, Gap, Stream
from edge_agent.record.continuity import gap_leaf
from edge_agent.record.items import GapItem, Item, RowsItem
from edge_agent.record.segment_writer import SegmentWriter
from edge_agent.record.series import ROW_LIMITS, Limits, RunState, Series
from edge_agent.record.table import Table
from edge_agent.segment import layout, tags
from edge_agent.segment.tags import Tag

OWN_STREAMS = 256
"""A run with more streams of single values lets them share tables."""


class RowSeries(Series):
    """See the module."""

    def __init__(self, state: RunState, limits: Limits = ROW_LIMITS, own_streams: int = OWN_STREAMS, known: int = 0) -> None:
        """Open nothing yet. ``known``: so many streams of single values are known, though they have not come yet."""
        super().__init__(state, "rows", limits)
        self.streams: dict[str, Stream] = {}
        self._known = max(known, len(state.last_time))
        self._singles = 0
        self._own_streams = own_streams
        self._own: dict[str, Table] = {}
        self._shared: dict[str, Table] = {}
        self._shares: dict[str, bool] = {}
        self._tags: list[Tag] = list(state.tags)
        self._numbers: dict[Tag, int] = {tag: number for number, tag in enumerate(self._tags)}
        self._numbered: dict[str, tuple[Stream, int]] = {}
        self._journalled = 0
        self._fullest = 0
        self._interrupted = dict(state.last_time)
        self._begun: set[str] = set()

    def describe(self, stream: Stream) -> None:
        """Take a description; a changed one of a stream with its own group begins a new segment, which says the new one."""
        known = self.streams.get(stream.key)
        if known is not None and known != stream and stream.key in self._own:
            self.roll("rolled")
        self._singles += known is None and tags.can_share(stream)
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
        segment = self._open()
        if self._is_shared(item.stream):
            number = self._tag(segment, item.stream)
            table = self._shared[self._tags[number].table]
            table.append([*item.columns, np.full(len(item.columns[0]), number, "<u4")], item.t_arrival)
        else:
            table = self._table(segment, item.stream)
            table.append(item.columns, item.t_arrival)
        self._fullest = max(self._fullest, table.rows // table.layout.chunk)
        segment.settle(item)

    def _gap(self, item: GapItem) -> None:
        if item.key not in self.streams:
            self.describe(item.stream)
        stream = self.streams[item.key]
        segment = self._open()
        if self._is_shared(stream):
            self._tag(segment, stream)
        else:
            self._table(segment, stream)
        segment.gap(gap_leaf(item.key, item.gap))
        segment.settle(item)

    def _declare_interruption(self, item: RowsItem) -> None:
        """The first rows after a crash say until when something may be missing."""
        if item.key in self._begun:
            return
        since = self._interrupted.get(item.key, self.state.interrupted_since)
        if since is not None:
            detail = "the agent was not running"
            self._gap(GapItem(item.stream, Gap(Cause.CRASH, None, None, None, since, item.t_arrival, detail)))
        self._begun.add(item.key)

    def _is_shared(self, stream: Stream) -> bool:
        shares = self._shares.get(stream.key)
        if shares is None:
            many = max(self._known, self._singles) > self._own_streams
            shares = self._shares[stream.key] = many and tags.can_share(stream)
        # A tag that becomes a waveform needs a group of its own.
        return shares and tags.can_share(stream)

    def _table(self, segment: SegmentWriter, stream: Stream) -> Table:
        """The table of a stream that has its own group."""
        table = self._own.get(stream.key)
        if table is None:
            made = layout.stream_layout(stream, default=not self._own and not self._shared)
            segment.add(made.objects, made.table.dsds)
            table = self._own[stream.key] = Table(segment, made.table, stream.key)
        return table

    def _tag(self, segment: SegmentWriter, stream: Stream) -> int:
        """The number of a tag, whose table and line are in the journal."""
        known, number = self._numbered.get(stream.key, (None, -1))
        if known is not stream:
            number = self._number(segment, stream)
            self._numbered[stream.key] = stream, number
        if number >= self._journalled:
            for tag in self._tags[self._journalled :]:
                self._share(segment, tag.table)
            segment.tags(self._tags[self._journalled :])
            self._journalled = len(self._tags)
        return number

    def _number(self, segment: SegmentWriter, stream: Stream) -> int:
        tag = tags.tag_of(stream)
        if tag not in self._numbers:
            # The table first: a type that no table can hold must not stay in the list.
            self._share(segment, tag.table)
            self._numbers[tag] = len(self._tags)
            self._tags.append(tag)
        return self._numbers[tag]

    def _share(self, segment: SegmentWriter, name: str) -> None:
        if name not in self._shared:
            made = tags.table_of(name, default=not self._own and not self._shared)
            segment.add(made.objects, made.table.dsds)
            self._shared[name] = Table(segment, made.table, tags.SOURCE + name)

    def _closing(self, outcome: str) -> layout.Objects:
        assert self.segment is not None  # noqa: S101
        gaps = self.segment.gaps
        objects: layout.Objects = {}
        for table in (*self._own.values(), *self._shared.values()):
            table.flush()
        for key in self._own:
            objects |= layout.gap_objects(layout.stream_group(self.streams[key]), gaps.get(key, []))
        if self._journalled:
            objects |= tags.closing_objects(self._tags, gaps)
        self._forget()
        return objects | super()._closing(outcome)

    def _streams(self) -> Mapping[str, Stream]:
        return self.streams

    def _rewind(self, mark: Any) -> None:
        if self.segment is None:
            self._forget()

    def _forget(self) -> None:
        """The segment is no longer written."""
        self._own, self._shared, self._journalled, self._fullest = {}, {}, 0, 0

    def _open_tables(self) -> Iterable[Table]:
        return (*self._own.values(), *self._shared.values())

    def _full(self) -> bool:
        return self._fullest >= layout.MAX_CHUNKS
