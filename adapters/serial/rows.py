"""Turns readings of lines into blocks of rows, and what is missing into gaps, for all channels of one instrument.

Invariants: runs on the agent's loop; a stream is opened with its first value, and again when the unit on the line or the number of
values side by side changes; bad lines that follow each other become one Gap, declared before the next value or after `HOLD_NS`;
gaps that come before the first value are held until then, as only then the unit is known.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from adapters.serial.outcome import Channel, Columns, Reading
from adapters.serial.splitter import Junk
from edge_agent.adapter import Inlet, Sink
from edge_agent.model import NO_TIME, Block, Cause, Gap, Int64Array, Stream, Valid, utc_now_ns

HOLD_NS = 1_000_000_000

log = logging.getLogger(__name__)


class Sample(NamedTuple):
    """One reading and the arrival of the first byte of its line, UTC ns."""

    reading: Reading
    t: int


class _Times(NamedTuple):
    source: Int64Array
    arrival: Int64Array
    status: npt.NDArray[np.uint32]

    def part(self, begin: int, end: int) -> _Times:
        return _Times(self.source[begin:end], self.arrival[begin:end], self.status[begin:end])


class Rows:
    """All channels of one instrument. ``stream`` describes what they have in common; ``forms`` are the channels of each form of line."""

    def __init__(self, sink: Sink, stream: Stream, forms: Sequence[Sequence[Channel]]) -> None:
        self._channels = {channel.name: _ChannelRows(sink, stream, channel) for channels in forms for channel in channels}
        self._forms = [[self._channels[channel.name] for channel in channels] for channels in forms]
        self._garbage: dict[int | None, Gap] = {}
        self._key = stream.instrument

    async def put(self, samples: Sequence[Sample]) -> None:
        """Deliver what one read gave, as one block a channel."""
        if not samples:
            return
        self.declare_garbage()
        for form, channels in enumerate(self._forms):
            mine = [sample for sample in samples if sample.reading.form == form] if len(self._forms) > 1 else samples
            if not mine:
                continue
            times = _Times(
                np.array([sample.reading.t_source for sample in mine], np.int64),
                np.array([sample.t for sample in mine], np.int64),
                np.array([sample.reading.status for sample in mine], np.uint32),
            )
            for i, channel in enumerate(channels):
                await channel.put([sample.reading.values[i] for sample in mine], [sample.reading.units[i] for sample in mine], times)

    async def put_columns(self, form: int, columns: Columns, arrivals: Int64Array) -> None:
        """Deliver many lines of one form that were read at once."""
        self.declare_garbage()
        times = _Times(np.full(len(arrivals), NO_TIME, np.int64), arrivals, columns.status)
        for channel, values, unit in zip(self._forms[form], columns.values, columns.units, strict=True):
            await channel.put_column(values, unit, times)

    def garbage(self, junk: Junk, form: int | None = None) -> None:
        """Note a line that is no item; ``form``: which one it should have been, if that is known."""
        if junk.more:
            return
        log.debug("%s: %s: %r", self._key, junk.why, junk.head)
        before = self._garbage.get(form)
        if before is None:
            self._garbage[form] = Gap(Cause.GARBAGE, count=1, t_from=junk.t, t_to=junk.t, detail=f"{junk.head!r}: {junk.why}")
        else:
            self._garbage[form] = replace(before, count=(before.count or 0) + 1, t_to=junk.t)

    def declare_garbage(self, older_than_ns: int = 0) -> None:
        """Declare the bad lines noted so far, if the first of them is that old."""
        for form, held in list(self._garbage.items()):
            if utc_now_ns() - held.t_from >= older_than_ns:
                del self._garbage[form]
                self.gap(held, form)

    def gap(self, gap: Gap, form: int | None = None) -> None:
        """Declare that something is missing in every channel, or in those of one form."""
        for channel in self._channels.values() if form is None else self._forms[form]:
            channel.gap(gap)

    def close(self) -> None:
        """Declare what is held."""
        self.declare_garbage()
        for channel in self._channels.values():
            channel.declare_held()


class _ChannelRows:
    """One channel: the values at one place of the readings."""

    def __init__(self, sink: Sink, stream: Stream, channel: Channel) -> None:
        self._sink = sink
        self._stream = replace(stream, name=channel.name, dtype=channel.dtype, unit=channel.unit or "", shape=channel.shape or ())
        self._fixed_unit = channel.unit is not None
        self._any_shape = channel.shape is None
        self._inlet: Inlet | None = None
        self._held: dict[Cause, Gap] = {}

    async def put(self, values: Sequence[Any], units: Sequence[str | None], times: _Times) -> None:
        """Deliver in runs of one unit and one shape."""
        begin = 0
        for i, (value, unit) in enumerate(zip(values, units, strict=True)):
            if self._differs(value, unit):
                await self._put(values[begin:i], times.part(begin, i))
                begin = i
                self._describe(value, unit)
        await self._put(values[begin:], times.part(begin, len(values)))

    async def put_column(self, values: npt.NDArray[Any], unit: str | None, times: _Times) -> None:
        """Deliver a column of one unit."""
        if self._differs(values[0], unit):
            self._describe(values[0], unit)
        await self._put(values, times)

    def gap(self, gap: Gap) -> None:
        """Declare now, or with the first value: only then the unit is known."""
        if self._inlet is not None:
            self._inlet.gap(gap)
        elif (held := self._held.get(gap.cause)) is None:
            self._held[gap.cause] = gap
        else:
            count = None if held.count is None or gap.count is None else held.count + gap.count
            self._held[gap.cause] = replace(held, count=count, t_to=max(held.t_to, gap.t_to))

    def declare_held(self) -> None:
        """Declare what came before the first value."""
        if self._held:
            self._open()

    def _differs(self, value: Any, unit: str | None) -> bool:
        other_unit = unit is not None and unit != self._stream.unit and not self._fixed_unit
        return other_unit or (self._any_shape and value.shape != self._stream.shape)

    def _describe(self, value: Any, unit: str | None) -> None:
        unit = self._stream.unit if unit is None or self._fixed_unit else unit
        shape = value.shape if self._any_shape else self._stream.shape
        self._stream = replace(self._stream, unit=unit, shape=shape)
        if self._inlet is not None:
            log.info("%s: the unit is now %r, %s values side by side", self._stream.key, unit, shape or 1)
        self._inlet = None

    async def _put(self, values: Sequence[Any] | npt.NDArray[Any], times: _Times) -> None:
        if not len(values):
            return
        column = np.asarray(values, self._stream.dtype)
        valid = np.full(len(column), Valid.GOOD, np.uint8)
        if column.dtype.kind == "f" and column.ndim == 1:
            valid[~np.isfinite(column)] = Valid.BAD
        await self._open().put(Block(column, times.source, times.arrival, valid=valid, status=times.status))

    def _open(self) -> Inlet:
        if self._inlet is None:
            self._inlet = self._sink.open(self._stream)
            held, self._held = self._held, {}
            for gap in held.values():
                self._inlet.gap(gap)
        return self._inlet
