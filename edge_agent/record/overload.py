"""What gives way when sources outrun the machine, one after the other.

1. room half full for a second: frames that are packed by the slow codec are packed by the fast one; a new segment says so;
2. sources that can wait do: their rows and frames enter when there is room (`Inlet.put`, `Inlet.put_frame`);
3. room four fifths full: of streams with priority "low", one frame in ten is taken;
4. no room: frames are refused.

What is not taken in 3 and 4 is a GAP with first, last and cause, in the file, the ledger and the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from edge_agent.model import Priority, Stream
from edge_agent.segment.layout import FRAME_CODEC, ROW_CODEC

LIGHTEN = 0.5
THIN = 0.8
CALM = 0.1
ONE_IN = 10
PATIENCE = 1.0
"""Seconds that the room is half full before the codec changes: each change begins a segment."""
RECOVERY = 60.0
"""Seconds that the room is all but empty before the configured codec is used again."""


class Yielding:
    """How one frame stream gives way. Not thread-safe: used under its channel's lock."""

    def __init__(self, stream: Stream, now: Callable[[], float] = time.monotonic) -> None:
        """``stream`` as it is configured."""
        self._lighter = replace(stream, codec=FRAME_CODEC) if stream.codec == ROW_CODEC else None
        self._configured = stream
        self._now = now
        self._light = False
        self._since: float | None = None
        self._came = 0

    def described(self, full: float) -> Stream:
        """The stream with the codec for the next frame, where ``full`` (0 to 1) of the room is taken."""
        if self._lighter is None:
            return self._configured
        due = full < CALM if self._light else full >= LIGHTEN
        if not due:
            self._since = None
        elif self._since is None:
            self._since = self._now()
        elif self._now() - self._since >= (RECOVERY if self._light else PATIENCE):
            self._light, self._since = not self._light, None
        return self._lighter if self._light else self._configured

    def skips(self, full: float) -> bool:
        """Whether the next frame is left out, so that more important ones find room."""
        if self._configured.priority is not Priority.LOW or full < THIN:
            return False
        self._came += 1
        return self._came % ONE_IN != 1
