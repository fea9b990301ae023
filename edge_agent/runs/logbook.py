"""What the agent log is told of segments and of the keys that sign them, and the change from one session to the next.

A session changes on the writer thread, between two items, so a segment has one session from its OPEN leaf to its close head. KEY_ADD is
durable before the session signs anything; KEY_RETIRE comes when no segment of it can be closed any more.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.model import RunContext
from edge_agent.record.segment_writer import JOURNAL, Closed
from edge_agent.record.series import Series
from edge_agent.record.session import Session
from edge_agent.runs.book import RunEntry
from edge_agent.seal.head import State
from edge_agent.seal.leaf import SegmentClose
from edge_agent.seal.log_leaf import Heads, KeyCompromised, KeyRetire, SegmentOpen

if TYPE_CHECKING:
    from edge_agent.runs.keeper import Keeper

HEADS_EVERY = 20.0
"""Seconds between HEADS leaves at least: the anchors of many series come at any time."""


@dataclass(slots=True)
class Logbook:
    """See the module."""

    keeper: Keeper
    _logging: threading.Lock = field(default_factory=threading.Lock)
    _shown: dict[bytes, bytes] = field(default_factory=dict)
    _shown_at: float = float("-inf")

    def begin(self) -> None:
        """Make the first session known, before it signs."""
        self._announce(self.keeper.session)

    def segment(self, entry: RunEntry, closed: Closed) -> None:
        """SEGMENT_CLOSE in the agent log, once."""
        with self._logging:
            if self.keeper.agent_log.segment_close(closed.segment_id, closed.head) is None:
                self._log_open(closed.segment_id, entry, closed.ordinal, closed.series)
                close = SegmentClose(closed.segment_id, closed.head, entry.run.run_id, closed.ordinal, self.keeper.now_ns())
                self.keeper.agent_log.append(close)

    def was_open(self, run: RunContext, name: str) -> bool:
        """Whether the agent log was told that the segment of this file name was opened: so its journal held something durable."""
        ordinal = Path(name).stem.rpartition("_")[2]
        return ordinal.isdecimal() and self.keeper.agent_log.told_open(run.run_id, int(ordinal))

    def open_segments(self) -> bool:
        """SEGMENT_OPEN of what was opened, and now and then one HEADS leaf over all new anchor heads (worker thread).

        Not on the writer's way: a segment that opens and closes between two looks is logged as it closes. Anchors come each minute, so
        this bounds the tail that nobody has seen, if the witness is asked at once.

        Returns:
            whether there is a HEADS leaf that the witness should see.
        """
        now = time.monotonic()
        heads = []
        with self._logging:
            for live in self.keeper.lives():
                for series in live.recording.series():
                    segment = series.segment
                    if segment is None or segment.failed is not None:
                        continue
                    opening = segment.opening
                    self._log_open(opening.segment_id, live.entry, opening.ordinal, opening.series)
                    anchor = segment.tree.anchors[-1] if segment.tree.anchors else None
                    if anchor is not None and anchor.head.state is State.OPEN and self._shown.get(opening.segment_id) != anchor.hash:
                        heads.append((opening.segment_id, anchor.head.size, anchor.hash))
            if heads and now - self._shown_at >= HEADS_EVERY:
                self.keeper.agent_log.append(Heads(tuple(heads), self.keeper.now_ns()))
                self._shown = {segment_id: digest for segment_id, _, digest in heads}
                self._shown_at = now
                return True
        return False

    def _log_open(self, segment_id: bytes, entry: RunEntry, ordinal: int, series: str) -> None:
        if not self.keeper.agent_log.segment_known(segment_id):
            self.keeper.agent_log.append(SegmentOpen(segment_id, entry.run.run_id, ordinal, series, self.keeper.now_ns()))

    def change_session(self, session: Session, compromised: str = "") -> None:
        """Sign with another session from the next segments on (worker thread).

        Args:
            session: the new one.
            compromised: why the old keys are no longer trusted; then the open segments are closed first, and the log says it behind them.

        Raises:
            DiskError: the disk refused; the old session goes on.
        """
        self.keeper.book.add_chain(session.kids[0], session.chain.encode())
        self.keeper.recorder.call(lambda: self._change_session(session, compromised)).result()

    def _change_session(self, session: Session, compromised: str) -> None:
        """On the writer thread: no segment is being opened or closed meanwhile."""
        if compromised:
            for series in self._series():
                series.roll("rolled")
        old = self.keeper.session
        session = replace(session, newest=old.newest)
        self.keeper.agent_log.use(session)
        self.keeper.session = session
        if compromised:
            self.keeper.agent_log.append(KeyCompromised(old.kids, compromised, self.keeper.now_ns()))

    def retire_sessions(self) -> None:
        """KEY_RETIRE of every session that signs nothing any more, of this process or one before (worker thread)."""
        if len(self.keeper.agent_log.open_keys()) > 1:
            self.keeper.recorder.call(self._retire_sessions).result()

    def _retire_sessions(self) -> None:
        """On the writer thread. A journal that is not of an open segment of the session now may still become one that an old key closed."""
        opened = [series.segment for series in self._series() if series.segment is not None]
        mine = {segment.journal_path for segment in opened if segment.session is self.keeper.session}
        if set((self.keeper.spool.folder / "runs").glob(f"*/*{JOURNAL}")) <= mine:
            for kids in self.keeper.agent_log.open_keys():
                if kids != self.keeper.session.kids:
                    self.keeper.agent_log.append(KeyRetire(kids, "its last segment is closed", self.keeper.now_ns()))

    def restart_log(self) -> None:
        """Go on in a new agent log, which the owner approved; what is not witnessed yet is logged there again (worker thread).

        Raises:
            DiskError: the disk refused.
        """
        self.keeper.recorder.call(self._restart_log).result()

    def _restart_log(self) -> None:
        self.keeper.agent_log.restart()
        self.keeper.agent_log.use(self.keeper.session)
        for entry in self.keeper.book.entries():
            for closed in self.keeper.book.segments(entry.run, self.keeper.folder(entry.run)):
                self.segment(entry, closed)

    def _announce(self, session: Session) -> None:
        self.keeper.book.add_chain(session.kids[0], session.chain.encode())
        self.keeper.agent_log.use(session)

    def _series(self) -> list[Series]:
        return [series for live in self.keeper.lives() for series in live.recording.series()]
