"""The last known value of each row stream of a group: a run begins with them, because a PV that never changes is not told again."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from edge_agent.model import Block, Stream
from edge_agent.runs.live import LiveRun
from edge_agent.runs.rows import as_initial, is_usable, take_rows

log = logging.getLogger(__name__)

KEPT_WHOLE = 4096
"""Bytes of values up to which a block is kept for its last row."""

Known = Mapping[str, tuple[Stream, Block, int]]
"""By stream: a block and its row, not taken out of it before somebody asks."""


class LastKnown:
    """See the module. Not thread-safe: used under the group's lock."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._last: dict[str, tuple[Stream, Block, int]] = {}

    def remember(self, stream: Stream, block: Block, row: int) -> None:
        """The last known value, for the run that begins next; an unusable one means that nothing is known."""
        if block.values.nbytes > KEPT_WHOLE:
            # A large block would stay in memory for the sake of one row.
            block, row = take_rows(block, np.array([row])), 0
        if is_usable(block, row):
            self._last[stream.key] = (stream, block, row)
        else:
            self._last.pop(stream.key, None)

    def now(self) -> Known:
        """All of them, as they are now."""
        return dict(self._last)


def give(live: LiveRun, known: Known) -> None:
    """Let a run begin with these values."""
    for stream, block, row in known.values():
        initial = as_initial(block, row)
        if initial is None:
            continue
        try:
            live.intake.rows(stream, initial)
        except ValueError:
            # It was never recorded before; the run begins all the same.
            log.exception("%s: its last known value cannot be recorded", stream.key)
