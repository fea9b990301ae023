"""What one run takes: channels by stream, frames that wait for room, and what a full disk made it refuse.

A run that begins takes what waited for it, which may be more than the recorder has room for: those frames queue here, and what comes
after them queues behind, so that the order of a stream is kept. What is refused because the disk is full is remembered and
declared as one gap before the next item that is taken, or at the end of the run. Not thread-safe: used under the group's lock.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.model import Block, Cause, Frame, Gap, Kind, Reset, Stream
from edge_agent.record.recording import FrameChannel, Recording, RowChannel
from edge_agent.runs.ranges import grown
from edge_agent.runs.rows import events
from edge_agent.spool.disk import DiskState

log = logging.getLogger(__name__)

QUEUE_BYTES = 512 << 20
FULL = (DiskState.HARD, DiskState.PAUSED)
"""Frames are refused: their sources cannot wait."""
FULL_DISK = "the disk is full"


@dataclass(slots=True, eq=False)
class _Queued:
    stream: Stream
    item: Frame | Gap | Reset
    refused: bool = False
    """Of a gap: frames that came and could not be taken, whatever their numbers."""


class Intake:
    """See the module. ``disk`` tells how full the disk is."""

    def __init__(self, recording: Recording, disk: Callable[[], DiskState]) -> None:
        self._recording = recording
        self._disk = disk
        self._channels: dict[str, FrameChannel | RowChannel] = {}
        self._queue: deque[_Queued] = deque()
        self._queued: Counter[str] = Counter()
        self._last: dict[str, _Queued] = {}
        self._queued_bytes = 0
        self._refused: dict[str, tuple[Stream, Gap]] = {}

    @property
    def busy(self) -> bool:
        """Whether frames still wait for room."""
        return bool(self._queue)

    def streams(self) -> set[str]:
        """The streams of which frames still wait for room."""
        return {key for key, n in self._queued.items() if n}

    def frame(self, stream: Stream, frame: Frame, *, waited: bool = False) -> bool:
        """Take one frame; never blocks. False: refused, and it is or will be declared; or, where its source ``waited`` for room, not now.

        Raises:
            ValueError: it is not what the stream says.
        """
        if self._disk() in FULL:
            if not waited:
                self._refuse(stream, _one(Cause.DISK, frame, FULL_DISK))
            return False
        if self._refused:
            self._declare(stream.key)
        if not self._queued.get(stream.key):
            return self._frames(stream).offer(frame, waited=waited)
        if waited:
            # What came before it still waits: it must not overtake, and its source can hold it.
            return False
        return self._queue_up(stream, frame)

    def frame_later(self, stream: Stream, frame: Frame) -> None:
        """Take a frame that waited for this run as soon as there is room."""
        if self._disk() in FULL:
            self._refuse(stream, _one(Cause.DISK, frame, FULL_DISK))
        else:
            self._declare(stream.key)
            self._queue_up(stream, frame)

    def rows(self, stream: Stream, block: Block) -> None:
        """Take rows at once; the caller waited for room.

        Raises:
            ValueError: they are not what the stream says.
        """
        if self._disk() is DiskState.PAUSED:
            if n := events(block):
                gap = Gap(Cause.DISK, None, None, n, int(block.t_arrival[0]), int(block.t_arrival[-1]), FULL_DISK)
                self._refuse(stream, gap)
            return
        self._declare(stream.key)
        channel = self._channel(stream)
        assert isinstance(channel, RowChannel)  # noqa: S101 - by the stream's kind
        channel.put_now(block)

    def gap(self, stream: Stream, gap: Gap, *, refused: bool = False) -> None:
        """Declare that something is missing. ``refused``: it came here, so its numbers are not those that were accounted for already."""
        if stream.kind is Kind.FILES:
            self._recording.file_gap(stream, gap)
            return
        self._declare(stream.key)
        if self._queued[stream.key]:
            self._later(stream, gap, refused=refused)
        else:
            self._tell(stream, gap, refused=refused)

    def reset(self, stream: Stream, reset: Reset) -> None:
        """Declare that a frame counter began again."""
        self._declare(stream.key)
        if self._queued[stream.key]:
            self._later(stream, reset)
        else:
            self._frames(stream).reset(reset)

    def drain(self) -> bool:
        """Hand over what there is room for; whether nothing is left."""
        room = self._recording.recorder.room
        while self._queue:
            queued = self._queue[0]
            if isinstance(queued.item, Frame) and room.used and room.used + 2 * queued.item.data.nbytes > room.limit:
                return False
            self._pop()
            self._hand_over(queued)
        return True

    def finish(self) -> None:
        """The end of the run: whatever still waits is declared as missing, and so is what was refused."""
        while self._queue:
            queued = self._pop()
            if isinstance(queued.item, Frame):
                frame = queued.item
                queued = _Queued(queued.stream, _one(Cause.OVERLOAD, frame, "no room"), refused=True)
            self._hand_over(queued)
        for key in list(self._refused):
            self._declare(key)

    def _hand_over(self, queued: _Queued) -> None:
        try:
            if isinstance(queued.item, Frame):
                self._frames(queued.stream).offer(queued.item)
            elif isinstance(queued.item, Gap):
                self._tell(queued.stream, queued.item, refused=queued.refused)
            else:
                self._frames(queued.stream).reset(queued.item)
        except ValueError:
            # Its adapter cannot be told any more; the others must go on.
            log.exception("%s: an item of the look-back cannot be recorded", queued.stream.key)

    def _refuse_behind(self, stream: Stream, gap: Gap) -> None:
        """A frame for which the queue has no room: the range before it grows where it can, however long the disk takes nothing."""
        before = self._last[stream.key].item
        longer = grown(before, gap) if isinstance(before, Gap) and before.detail == gap.detail else None
        if longer is None:
            self._later(stream, gap, refused=True)
        else:
            self._last[stream.key].item = longer

    def _queue_up(self, stream: Stream, frame: Frame) -> bool:
        if self._queued.get(stream.key) and self._queued_bytes + frame.data.nbytes > QUEUE_BYTES:
            self._refuse_behind(stream, _one(Cause.OVERLOAD, frame, "no room"))
            return False
        self._later(stream, frame)
        self._queued_bytes += frame.data.nbytes
        return True

    def _later(self, stream: Stream, item: Frame | Gap | Reset, *, refused: bool = False) -> None:
        queued = self._last[stream.key] = _Queued(stream, item, refused)
        self._queue.append(queued)
        self._queued[stream.key] += 1

    def _pop(self) -> _Queued:
        queued = self._queue.popleft()
        self._queued[queued.stream.key] -= 1
        if self._last[queued.stream.key] is queued:
            del self._last[queued.stream.key]
        if isinstance(queued.item, Frame):
            self._queued_bytes -= queued.item.data.nbytes
        return queued

    def _refuse(self, stream: Stream, gap: Gap) -> None:
        held = self._refused.get(stream.key)
        if held is None:
            log.warning("%s: the disk is full, data is refused and declared as a gap", stream.key, extra={"code": "DISK_FULL"})
            self._refused[stream.key] = (stream, gap)
            return
        longer = grown(held[1], gap)
        if longer is None:
            self._declare(stream.key)
        self._refused[stream.key] = (stream, longer or gap)

    def _declare(self, key: str) -> None:
        refused = self._refused.pop(key, None)
        if refused is not None:
            self.gap(*refused, refused=True)

    def _tell(self, stream: Stream, gap: Gap, *, refused: bool) -> None:
        channel = self._channel(stream)
        if isinstance(channel, FrameChannel):
            channel.gap(gap, refused=refused)
        else:
            channel.gap(gap)

    def _channel(self, stream: Stream) -> FrameChannel | RowChannel:
        channel = self._channels.get(stream.key)
        if channel is None or (channel.stream is not stream and channel.stream != stream):
            channel = self._recording.frames(stream) if stream.kind is Kind.FRAMES else self._recording.rows(stream)
            self._channels[stream.key] = channel
        return channel

    def _frames(self, stream: Stream) -> FrameChannel:
        channel = self._channel(stream)
        assert isinstance(channel, FrameChannel)  # noqa: S101 - by the stream's kind
        return channel


def _one(cause: Cause, frame: Frame, why: str) -> Gap:
    return Gap(cause, frame.number, frame.number, 1, frame.t_arrival, frame.t_arrival, why)
