"""The recording of one run: inlets for its streams, and an orderly end.

Channels may be called from any thread; they hand over to the recorder's line. A refused frame is remembered with its number and
declared before the next accepted one. Rows that wait for room when the run ends still get in: `close` is done after them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path

from edge_agent.model import NO_SEQ, Block, Cause, FileItem, Frame, Gap, Reset, Stream
from edge_agent.record.adopt import adopt, discard_unfinished
from edge_agent.record.closing import close_all
from edge_agent.record.file_series import FileSeries
from edge_agent.record.frame_series import FrameSeries, unreadable
from edge_agent.record.gate import Gate
from edge_agent.record.items import AdoptedItem, FrameItem, GapItem, ResetItem, checked, frame_row, rows_item
from edge_agent.record.overload import Yielding
from edge_agent.record.recorder import Recorder
from edge_agent.record.room import PER_ITEM, Charge
from edge_agent.record.row_series import OWN_STREAMS, RowSeries
from edge_agent.record.series import FRAME_LIMITS, ROW_LIMITS, Limits, RunState, Series
from edge_agent.segment.layout import codec_of

log = logging.getLogger(__name__)


def _late(stream: Stream, what: str) -> None:
    """Data for a run whose papers are being made: a fault of the caller that must be seen."""
    log.error("%s: %s came after the end of their run", stream.key, what, extra={"code": "LATE"})


class FrameChannel:
    """Frames of one stream into one run."""

    def __init__(self, recorder: Recorder, series: FrameSeries, stream: Stream, gate: Gate) -> None:
        """See `Recording.frames`."""
        self.recorder = recorder
        self.series = series
        self.stream = stream
        self._gate = gate
        self._refused: Gap | None = None
        self._yielding = Yielding(stream)
        self._lock = threading.Lock()
        self._unreadable = unreadable(stream)
        if self._unreadable is not None:
            log.error("%s: no frame of it can be recorded\n%s", stream.key, self._unreadable, extra={"code": self._unreadable.code})

    def offer(self, frame: Frame, *, waited: bool = False) -> bool:
        """Take a frame if there is room and its codec can be used; never blocks. A refused one becomes a Gap(overload).

        Args:
            frame: the next of its stream.
            waited: its source waited until there was room for it, and holds that much until this returns.

        Raises:
            ValueError: not what the stream says, or a number or time that no counter or clock has.
        """
        stream, data = self.stream, frame.data
        if data.shape != stream.shape or data.dtype.str != stream.dtype:
            raise ValueError(f"{stream.key}: a frame {data.shape} {data.dtype.str}, the stream says {stream.shape} {stream.dtype}")
        row = frame_row(frame)
        if not self._gate.enter():
            _late(stream, f"frame {frame.number}")
            return False
        try:
            with self._lock:
                return self._take(frame, row, waited)
        finally:
            self._gate.leave()

    def _take(self, frame: Frame, row: bytes, waited: bool) -> bool:
        size = frame_size(frame)
        room = self.recorder.room
        full = room.full
        if self._unreadable is not None:
            self._refuse(frame, f"the codec {codec_of(self.stream)} cannot be used: {self._unreadable.why}")
            return False
        if waited:
            room.force(size)
        elif self._yielding.skips(full):
            # Where there is no room, nothing is thinned out: one range that grows, however long the disk takes nothing.
            self._refuse(frame, "thinned out" if room.has(size) else "no room")
            return False
        elif not room.try_enter(size):
            self._refuse(frame, "no room")
            return False
        stream = self._yielding.described(full)
        if self._refused is not None:
            self._declare()
        item = FrameItem(stream, frame.number, frame.t_arrival, row, Charge(room, size))
        self.recorder.encode(item, codec_of(stream), frame.data, self.series.write)
        return True

    def gap(self, gap: Gap, *, refused: bool = False) -> None:
        """Declare a gap. ``refused``: of frames that came, so a number that was there before is another one's.

        Raises:
            ValueError: a number, count or time that no counter or clock has.
        """
        item = GapItem(self.stream, checked(gap), refused=refused)
        with self._lock:
            self._declare()
            self.recorder.submit(lambda: self.series.write(item))

    def reset(self, reset: Reset) -> None:
        """Declare that the counter began again.

        Raises:
            ValueError: a number that no counter has.
        """
        if not 0 <= reset.first < NO_SEQ:
            raise ValueError(f"{self.stream.key}: a reset to {reset.first}, and numbers are 0 to 2^64-2")
        item = ResetItem(self.stream, reset)
        with self._lock:
            self._declare()
            self.recorder.submit(lambda: self.series.write(item))

    def finish(self) -> None:
        """Declare what is still to be declared."""
        with self._lock:
            self._declare()

    def _refuse(self, frame: Frame, why: str) -> None:
        before = self._refused
        if before is not None and (before.detail != why or (before.last is not None and frame.number < before.last)):
            # For another reason, or the counter began again while nothing got in: two ranges.
            self._declare()
            before = None
        before = before or Gap(Cause.OVERLOAD, frame.number, frame.number, 0, frame.t_arrival, frame.t_arrival, why)
        self._refused = replace(before, last=frame.number, count=(before.count or 0) + 1, t_to=frame.t_arrival)

    def _declare(self) -> None:
        refused, self._refused = self._refused, None
        if refused is not None:
            item = GapItem(self.stream, refused, refused=True)
            self.recorder.submit(lambda: self.series.write(item))


def frame_size(frame: Frame) -> int:
    """Bytes that a frame takes of the room when it comes."""
    return int(frame.data.nbytes) + PER_ITEM


def _row_size(block: Block) -> int:
    """Bytes that a block takes on its way, its times and flags included."""
    return int(block.values.nbytes) + 64 * len(block) + PER_ITEM


class RowChannel:
    """Rows of one stream into one run."""

    def __init__(self, recorder: Recorder, series: RowSeries, stream: Stream, gate: Gate) -> None:
        """See `Recording.rows`."""
        self.recorder = recorder
        self.series = series
        self.stream = stream
        self._gate = gate

    async def put(self, block: Block) -> None:
        """Take rows; waits while there is no room.

        Raises:
            ValueError: not what the stream says.
        """
        if not len(block):
            return
        size = _row_size(block)
        item = rows_item(self.stream, block, lambda: self.recorder.room.leave(size))
        if not self._gate.enter():
            _late(self.stream, f"{len(block)} rows")
            return
        try:
            await self.recorder.room.enter(size)
            self.recorder.submit(lambda: self.series.write(item))
        finally:
            self._gate.leave()

    def put_now(self, block: Block) -> None:
        """Take rows without waiting: a few last known values, the rows of a look-back.

        Raises:
            ValueError: not what the stream says.
        """
        size = _row_size(block)
        item = rows_item(self.stream, block, lambda: self.recorder.room.leave(size))
        if not self._gate.enter():
            _late(self.stream, f"{len(block)} rows")
            return
        self.recorder.room.force(size)
        self.recorder.submit(lambda: self.series.write(item))
        self._gate.leave()

    def gap(self, gap: Gap) -> None:
        """Declare a gap.

        Raises:
            ValueError: a number, count or time that no counter or clock has.
        """
        item = GapItem(self.stream, checked(gap))
        self.recorder.submit(lambda: self.series.write(item))


class Recording:
    """All series of one run."""

    def __init__(
        self, recorder: Recorder, state: RunState, *, frame_limits: Limits = FRAME_LIMITS, row_limits: Limits = ROW_LIMITS,
        own_streams: int = OWN_STREAMS, known_rows: int = 0,
    ) -> None:  # fmt: skip
        """Open nothing yet. With more than ``own_streams`` row streams of single values, known before or not, they share tables."""
        self.recorder = recorder
        self.state = state
        self.frame_limits = frame_limits
        self.row_limits = row_limits
        self.own_streams = own_streams
        self.known_rows = known_rows
        self._rows: RowSeries | None = None
        self._files: FileSeries | None = None
        self._frames: dict[str, FrameSeries] = {}
        self._channels: dict[str, FrameChannel] = {}
        self._names: dict[str, set[str]] = {}
        self._made: set[Path] = set()
        self._lock = threading.Lock()
        self._gate = Gate()
        discard_unfinished(state.folder / "files")

    def series(self) -> list[Series]:
        """All series that were begun."""
        rest: list[Series] = [s for s in (self._rows, self._files) if s is not None]
        return [*list(self._frames.values()), *rest]

    def frames(self, stream: Stream) -> FrameChannel:
        """The channel of a frame stream; again with another description: a new segment begins."""
        with self._lock:
            series = self._frames.get(stream.key)
            if series is None:
                series = self._frame_series(stream)
                self._attach(series)
            else:
                known = series
                self._channels[stream.key].finish()
                self.recorder.submit(lambda: known.describe(stream))
            channel = self._channels[stream.key] = FrameChannel(self.recorder, series, stream, self._gate)
            return channel

    def rows(self, stream: Stream) -> RowChannel:
        """The channel of a row stream."""
        series = self._row_series()
        self.recorder.submit(lambda: series.describe(stream))
        return RowChannel(self.recorder, series, stream, self._gate)

    def file(self, stream: Stream, item: FileItem, durable: Callable[[str, bytes], None]) -> Future[None]:
        """Adopt a vendor's file: copied and hashed on the calling thread, then recorded.

        Args:
            stream: the file stream of the instrument.
            item: the file as it is now.
            durable: gets its path in the run and its SHA-256 after the commit that made it durable; on the commit thread.

        Raises:
            OSError: the file could not be read, or changed meanwhile; the caller tries again.
            DiskError: the disk refused the copy.
            ValueError: its name leads out of the folder.
        """
        with self._lock:
            taken = self._names.get(stream.instrument)
            if taken is None:
                prefix = f"files/{stream.instrument}/"
                taken = {path.removeprefix(prefix) for path in self.state.files if path.startswith(prefix)}
                self._names[stream.instrument] = taken
        adopted = adopt(self.state.folder / "files" / stream.instrument, item, self.state.storage, taken, self._made)
        path = f"files/{stream.instrument}/{adopted.name}"
        record = AdoptedItem(stream.key, item, path, adopted.digest, adopted.root, lambda: durable(path, adopted.digest))
        series = self._file_series()
        return self.recorder.call(lambda: series.write(record))

    def file_gap(self, stream: Stream, gap: Gap) -> None:
        """Declare that a vendor's file could not be taken.

        Raises:
            ValueError: a number, count or time that no counter or clock has.
        """
        item = GapItem(stream, checked(gap))
        series = self._file_series()
        self.recorder.submit(lambda: series.write(item))

    def close(self, outcome: str, reason: str = "run-end") -> Future[None]:
        """Close all segments; an otherwise empty run gets one empty segment, so that there is always something to open."""
        with self._lock:
            channels = list(self._channels.values())
        for channel in channels:
            channel.finish()
        closed: Future[None] = Future()

        def finish() -> None:
            finished = self.recorder.call(lambda: self._finish(outcome, reason))
            finished.add_done_callback(lambda done: self.recorder.after_removals(partial(_pass_on, done, closed)))

        self._gate.close(finish)
        return closed

    def _finish(self, outcome: str, reason: str) -> None:
        if self.state.ordinal == 0:
            self._row_series().begin()
        for stream in self.state.tails.values():
            if stream.key not in self._frames:
                self.recorder.attach(self._frame_series(stream))
        everything = self.series()
        try:
            close_all(everything, reason, outcome, self.recorder.beside)
        finally:
            for series in everything:
                self.recorder.detach(series)

    def _row_series(self) -> RowSeries:
        if self._rows is not None:
            return self._rows
        with self._lock:
            if self._rows is None:
                self._rows = RowSeries(self.state, self.row_limits, self.own_streams, self.known_rows)
                self._attach(self._rows)
            return self._rows

    def _frame_series(self, stream: Stream) -> FrameSeries:
        series = self._frames[stream.key] = FrameSeries(self.state, stream, self.frame_limits)
        return series

    def _file_series(self) -> FileSeries:
        with self._lock:
            if self._files is None:
                self._files = FileSeries(self.state, self.row_limits)
                self._attach(self._files)
            return self._files

    def _attach(self, series: Series) -> None:
        self.recorder.submit(lambda: self.recorder.attach(series))


def _pass_on(done: Future[None], to: Future[None]) -> None:
    """The outcome of one future to another, if anybody still waits for it."""
    if to.set_running_or_notify_cancel():
        error = done.exception()
        if error is None:
            to.set_result(None)
        else:
            to.set_exception(error)


def run_folder(spool: Path, run_name: str) -> Path:
    """Where the files of a run are in the spool."""
    return spool / "runs" / run_name
