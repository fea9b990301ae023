"""Turns readings of lines into blocks of rows, and what is missing into gaps, for all channels of one instrument.

Invariants: runs on the agent's loop; a stream is opened with its first value, and again when the unit on the line changes;
bad lines that follow each other become one Gap, declared before the next value or after `HOLD_NS`; gaps that come before
the first value are held until then, as only then the unit is known.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapters.serial.outcome import Channel, Reading
from adapters.serial.splitter import Junk
from edge_agent.adapter import Inlet, Sink
from edge_agent.model import NO_TIME, Block, Cause, Gap, Stream, Valid, utc_now_ns

HOLD_NS = 1_000_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading and the arrival of the first byte of its line, UTC ns."""

    reading: Reading
    t: int


class Rows:
    """All channels of one instrument. ``stream`` describes what they have in common."""

    def __init__(self, sink: Sink, stream: Stream, channels: Sequence[Channel]) -> None:
        self._channels = [_ChannelRows(sink, stream, i, channel) for i, channel in enumerate(channels)]
        self._garbage: Gap | None = None
        self._key = stream.instrument

    async def put(self, samples: Sequence[Sample]) -> None:
        """Deliver what one read gave, as one block a channel."""
        if not samples:
            return
        self.declare_garbage()
        for channel in self._channels:
            await channel.put(samples)

    def garbage(self, junk: Junk) -> None:
        """Note a line that is no item."""
        log.debug("%s: %s: %r", self._key, junk.why, junk.head)
        before = self._garbage
        if before is None:
            self._garbage = Gap(Cause.GARBAGE, count=1, t_from=junk.t, t_to=junk.t, detail=f"{junk.head!r}: {junk.why}")
        else:
            self._garbage = replace(before, count=(before.count or 0) + 1, t_to=junk.t)

    def declare_garbage(self, older_than_ns: int = 0) -> None:
        """Declare the bad lines noted so far, if the first of them is that old."""
        held = self._garbage
        if held is not None and utc_now_ns() - held.t_from >= older_than_ns:
            self._garbage = None
            self.gap(held)

    def gap(self, gap: Gap) -> None:
        """Declare that something is missing in every channel."""
        for channel in self._channels:
            channel.gap(gap)

    def close(self) -> None:
        """Declare what is held."""
        self.declare_garbage()
        for channel in self._channels:
            channel.declare_held()


class _ChannelRows:
    """One channel: the values at one place of the readings."""

    def __init__(self, sink: Sink, stream: Stream, index: int, channel: Channel) -> None:
        self._sink = sink
        self._stream = replace(stream, name=channel.name, dtype=channel.dtype, unit=channel.unit or "")
        self._index = index
        self._fixed_unit = channel.unit is not None
        self._inlet: Inlet | None = None
        self._held: dict[Cause, Gap] = {}

    async def put(self, samples: Sequence[Sample]) -> None:
        """Deliver in runs of one unit."""
        run: list[Sample] = []
        for sample in samples:
            unit = sample.reading.units[self._index]
            if unit is not None and unit != self._stream.unit and not self._fixed_unit:
                await self._put(run)
                run = []
                self._stream = replace(self._stream, unit=unit)
                if self._inlet is not None:
                    log.info("%s: the unit is now %s", self._stream.key, unit)
                self._inlet = None
            run.append(sample)
        await self._put(run)

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

    async def _put(self, run: list[Sample]) -> None:
        if not run:
            return
        values = [sample.reading.values[self._index] for sample in run]
        valid = [Valid.BAD if isinstance(value, float) and not math.isfinite(value) else Valid.GOOD for value in values]
        await self._open().put(
            Block(
                np.array(values, self._stream.dtype),
                np.full(len(run), NO_TIME, np.int64),
                np.array([sample.t for sample in run], np.int64),
                valid=np.array(valid, np.uint8),
                status=np.array([sample.reading.status for sample in run], np.uint32),
            )
        )

    def _open(self) -> Inlet:
        if self._inlet is None:
            self._inlet = self._sink.open(self._stream)
            held, self._held = self._held, {}
            for gap in held.values():
                self._inlet.gap(gap)
        return self._inlet
