"""The recording of one run: inlets for its streams, and an orderly end.

Channels may be called from any thread; they hand over to the recorder's writer thread. A refused frame is remembered with its number and declared before the next accepted one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from edge_agent.model import Block, Cause, FileItem, Frame, Gap, Reset, Stream
from edge_agent.record.adopt import adopt
from edge_agent.record.items import AdoptedItem, FrameItem, rows_item
from edge_agent.record.recorder import Recorder
from edge_agent.record.series import FRAME_LIMITS, ROW_LIMITS, FileSeries, FrameSeries, Limits, RowSeries, RunState, Series


class FrameChannel:
    """Frames of one stream into one run."""

    def __init__(self, recorder: Recorder, series: FrameSeries, stream: Stream) -> None:
        """See `Recording.frames`."""
        self.recorder = recorder
        self.series = series
        self.stream = stream
        self._refused: Gap | None = None
        self._lock = threading.Lock()

    def offer(self, frame: Frame) -> bool:
        """Take a frame if there is room; never blocks. A refused one becomes a Gap(overload)."""
        if frame.data.shape != self.stream.shape or frame.data.dtype.str != self.stream.dtype:
            raise ValueError(f"{self.stream.key}: a frame {frame.data.shape} {frame.data.dtype.str}, the stream says {self.stream.shape} {self.stream.dtype}")
        size = frame.data.nbytes
        with self._lock:
            if not self.recorder.room.try_enter(size):
                self._refuse(frame)
                return False
            self._declare()
            encoded = self.recorder.encode(self.stream.codec or "bitshuffle-lz4", frame.data)
            item = FrameItem(self.stream.key, frame, encoded, lambda: self.recorder.room.leave(size))
            self.recorder.submit(lambda: self.series.write(item))
        return True

    def gap(self, gap: Gap) -> None:
        """Declare a gap."""
        with self._lock:
            self._declare()
            self.recorder.submit(lambda: self.series.gap(self.stream, gap))

    def reset(self, reset: Reset) -> None:
        """Declare that the counter began again."""
        with self._lock:
            self._declare()
            self.recorder.submit(lambda: self.series.reset(reset))

    def finish(self) -> None:
        """Declare what is still to be declared."""
        with self._lock:
            self._declare()

    def _refuse(self, frame: Frame) -> None:
        before = self._refused
        first = frame.number if before is None else before.first
        t_from = frame.t_arrival if before is None else before.t_from
        self._refused = Gap(Cause.OVERLOAD, first, frame.number, None, t_from, frame.t_arrival, "no room")

    def _declare(self) -> None:
        refused, self._refused = self._refused, None
        if refused is not None:
            self.recorder.submit(lambda: self.series.gap(self.stream, refused))


def _row_size(block: Block) -> int:
    """Bytes that a block takes on its way, its times and flags included."""
    return int(block.values.nbytes) + 64 * len(block)


class RowChannel:
    """Rows of one stream into one run."""

    def __init__(self, recorder: Recorder, series: RowSeries, stream: Stream) -> None:
        """See `Recording.rows`."""
        self.recorder = recorder
        self.series = series
        self.stream = stream

    async def put(self, block: Block) -> None:
        """Take rows; waits while there is no room."""
        if not len(block):
            return
        size = _row_size(block)
        await self.recorder.room.enter(size)
        self._submit(block, size)

    def put_now(self, block: Block) -> None:
        """Take rows without waiting: a few last known values, the rows of a look-back."""
        size = _row_size(block)
        self.recorder.room.force(size)
        self._submit(block, size)

    def _submit(self, block: Block, size: int) -> None:
        item = rows_item(self.stream, block, lambda: self.recorder.room.leave(size))
        self.recorder.submit(lambda: self.series.write(item))

    def gap(self, gap: Gap) -> None:
        """Declare a gap."""
        self.recorder.submit(lambda: self.series.gap(self.stream, gap))


class Recording:
    """All series of one run."""

    def __init__(self, recorder: Recorder, state: RunState, *, frame_limits: Limits = FRAME_LIMITS, row_limits: Limits = ROW_LIMITS, preallocate: int = 0) -> None:
        """Open nothing yet."""
        self.recorder = recorder
        self.state = state
        self.frame_limits = frame_limits
        self.row_limits = row_limits
        self.preallocate = preallocate
        self._rows: RowSeries | None = None
        self._files: FileSeries | None = None
        self._frames: dict[str, FrameSeries] = {}
        self._channels: dict[str, FrameChannel] = {}
        self._lock = threading.Lock()

    def series(self) -> list[Series]:
        """All series that were begun."""
        rest: list[Series] = [s for s in (self._rows, self._files) if s is not None]
        return [*self._frames.values(), *rest]

    def frames(self, stream: Stream) -> FrameChannel:
        """The channel of a frame stream; again with another description: a new segment begins."""
        with self._lock:
            series = self._frames.get(stream.key)
            if series is None:
                series = self._frames[stream.key] = FrameSeries(self.state, stream, self.frame_limits, self.preallocate)
                self._attach(series)
            else:
                known = series
                self.recorder.submit(lambda: known.describe(stream))
            channel = self._channels[stream.key] = FrameChannel(self.recorder, series, stream)
            return channel

    def rows(self, stream: Stream) -> RowChannel:
        """The channel of a row stream."""
        with self._lock:
            if self._rows is None:
                self._rows = RowSeries(self.state, self.row_limits)
                self._attach(self._rows)
            series = self._rows
            self.recorder.submit(lambda: series.describe(stream))
            return RowChannel(self.recorder, series, stream)

    def file(self, stream: Stream, item: FileItem, durable: Callable[[str], None]) -> Future[None]:
        """Adopt a vendor's file: copied and hashed on the calling thread, then recorded; ``durable`` gets its path in the run after the commit.

        Raises:
            OSError: the file could not be read; the caller tries again.
        """
        adopted = adopt(self.state.folder / "files" / stream.instrument, item, self.state.storage)
        with self._lock:
            if self._files is None:
                self._files = FileSeries(self.state, self.row_limits)
                self._attach(self._files)
            series = self._files
        path = f"files/{stream.instrument}/{adopted.name}"
        record = AdoptedItem(stream.key, item, path, adopted.digest, adopted.root, lambda: durable(path))
        return self.recorder.call(lambda: series.write(record))

    def file_gap(self, stream: Stream, gap: Gap) -> None:
        """Declare that a vendor's file could not be taken."""
        with self._lock:
            if self._files is None:
                self._files = FileSeries(self.state, self.row_limits)
                self._attach(self._files)
            series = self._files
        self.recorder.submit(lambda: series.gap(stream, gap))

    def close(self, outcome: str, reason: str = "run-end") -> Future[None]:
        """Close all segments; an otherwise empty run gets one empty segment, so that there is always something to open."""
        for channel in self._channels.values():
            channel.finish()

        def finish() -> None:
            with self._lock:
                if self.state.ordinal == 0:
                    self._rows = self._rows or RowSeries(self.state, self.row_limits)
                    self._rows.begin()
                for series in self.series():
                    series.roll(reason, outcome)
                    self.recorder.detach(series)

        return self.recorder.call(finish)

    def _attach(self, series: Series) -> None:
        self.recorder.submit(lambda: self.recorder.attach(series))


def run_folder(spool: Path, run_name: str) -> Path:
    """Where the files of a run are in the spool."""
    return spool / "runs" / run_name
