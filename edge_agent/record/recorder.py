"""The recorder: encoder threads, a line of jobs, one commit thread (docs/recording.md).

Frames are encoded and hashed in encoder threads, in parallel; everything is written in the order in which it was offered, one item at a
time, by the thread that finds it ready (`Line`): HDF5 belongs to whoever has the turn. The commit thread makes it durable: the syncs of
all segments run in parallel, and the next commit begins 5 ms after the last one ended. Two kinds of threads wait for the disk in place of
whoever has the turn: those that close the segments of a run together, and those that remove journals while the line goes on. Room is
bounded by bytes that are not durable yet: `try_enter` refuses, so a slow disk is felt at the inlets and nowhere else. Invariant: no thread
ends before `stop`, whatever an item, a callback or the disk does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from edge_agent.errors import DiskError
from edge_agent.model import Packed
from edge_agent.record.encoding import Encoders
from edge_agent.record.items import FrameItem
from edge_agent.record.line import Line
from edge_agent.record.room import Room
from edge_agent.record.segment_writer import Sample, SegmentWriter
from edge_agent.record.series import Series
from edge_agent.storage import Storage

log = logging.getLogger(__name__)

T = TypeVar("T")

COMMIT_PAUSE = 0.005
TICK = 0.5
DISK_RETRY = 0.2
DURABLE_POLL = 0.01
DISK_REMINDER = 60.0
PATIENCE = 10.0
KEPT_LATENCIES = 2000
CLOSERS = 8
"""Segments that are closed at the same time: what they wait for is the disk."""
REMOVERS = 4
"""Files that are removed at the same time: each takes up to 50 ms where the disk discards what is freed."""


class Recorder:
    """Threads and bounds shared by all series of the agent."""

    def __init__(self, *, encoders: int | None = None, room: int = 128 << 20) -> None:
        """Start the threads, by default one encoder a core. ``room`` bounds what is not durable yet; buffers get as much."""
        self.room = Room(room)
        self.latencies: deque[float] = deque(maxlen=KEPT_LATENCIES)
        """Seconds from arrival to durable of the last items."""
        self.commits = 0
        self._asked: float | None = None
        self._syncs = ThreadPoolExecutor(4, "sync")
        # Not those of the syncs: a close waits for the commit that is under way, and that for its syncs.
        self._closers = ThreadPoolExecutor(CLOSERS, "close")
        self._removers = ThreadPoolExecutor(REMOVERS, "remove")
        self._removals: set[Future[None]] = set()
        self._series: list[Series] = []
        self._ended = False
        self._stopping = threading.Event()
        self._warned = float("-inf")
        self._work = threading.Event()
        self._line = Line(self._failed, self._written)
        self._encoders = Encoders(encoders or max(2, os.cpu_count() or 2), room, self._line.advance)
        self._writer = threading.Thread(target=self._write_loop, name="writer", daemon=True)
        self._committer = threading.Thread(target=self._commit_loop, name="commit", daemon=True)
        self._writer.start()
        self._committer.start()

    def encode(self, item: FrameItem, codec: str, data: npt.NDArray[Any] | Packed, write: Callable[[FrameItem], None]) -> None:
        """Encode and hash one frame in an encoder thread, then ``write`` it in its turn."""
        self._line.put(partial(write, item), item)
        self._encoders.put(item, codec, data)

    def submit(self, job: Callable[[], None]) -> None:
        """Do ``job`` after everything submitted before, with nothing else at the same time."""
        self._line.put(job)

    def call(self, job: Callable[[], T]) -> Future[T]:
        """Like `submit`, with a result. The job is done even if nobody waits for the result any more."""
        future: Future[T] = Future()

        def run() -> None:
            wanted = future.set_running_or_notify_cancel()
            try:
                result = job()
            except Exception as error:
                if not wanted:
                    raise
                future.set_exception(error)
            else:
                if wanted:
                    future.set_result(result)

        self._line.put(run)
        return future

    def beside(self, job: Callable[[], T]) -> Future[T]:
        """Do what needs no turn at the same time as other such jobs (in a job, which waits for it)."""
        return self._closers.submit(job)

    def remove(self, storage: Storage, path: Path) -> None:
        """Remove a file while the line goes on, asking again as long as the disk refuses (in a job); see `after_removals`."""
        removal = self._removers.submit(self._remove, storage, path)
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)

    def _remove(self, storage: Storage, path: Path) -> None:
        while True:
            try:
                storage.unlink(path)
            except DiskError as error:
                self.wait_for_disk(error)
            else:
                return

    def after_removals(self, job: Callable[[], None]) -> None:
        """Do ``job`` when everything is gone that `remove` was told so far, or is left to the next start because the recorder stops."""
        removals = self._removals.copy()

        def last() -> None:
            # Behind all of them in the same queue, so each of them has a thread by now.
            wait(removals)
            job()

        self._removers.submit(last)

    async def durable(self) -> None:
        """Return when everything that was handed over so far is durable, or declared as missing."""
        again = True
        while again:
            marks = await asyncio.wrap_future(self.call(self._awaited))
            while any(segment.confirmed_position < position and segment.failed is None for segment, position in marks):  # noqa: ASYNC110 - threads tell no loop
                await asyncio.sleep(DURABLE_POLL)
            # What a failed segment held is written into another one.
            again = any(segment.confirmed_position < position for segment, position in marks)
            if again:
                await asyncio.sleep(DISK_RETRY)

    def _awaited(self) -> list[tuple[SegmentWriter, int]]:
        return [(series.segment, series.segment.awaited()) for series in self._series if series.segment is not None]

    def attach(self, series: Series) -> None:
        """Commit and tick this series from now on (in a job)."""
        self._series.append(series)

    def detach(self, series: Series) -> None:
        """Stop doing so (in a job)."""
        if series in self._series:
            self._series.remove(series)

    def wait_for_disk(self, error: DiskError) -> None:
        """Pause the line after a disk error; inlets push back meanwhile.

        Raises:
            DiskError: the recorder is stopping and its patience is over.
        """
        now = time.monotonic()
        if now - self._warned >= DISK_REMINDER:
            self._warned = now
            log.warning("the disk failed, going on in a new segment: %s", error, extra={"code": error.code})
        if self._stopping.wait(DISK_RETRY):
            raise error

    def sync_waits(self) -> float:
        """Seconds for which the disk has been at the commit in progress; 0 when there is none."""
        asked = self._asked
        return 0.0 if asked is None else time.monotonic() - asked

    def alive(self) -> bool:
        """Whether all threads live."""
        return self._writer.is_alive() and self._committer.is_alive() and self._encoders.alive()

    def stop(self, patience: float = PATIENCE) -> None:
        """Drain, then end the threads. Series must be rolled before.

        Args:
            patience: seconds for which a disk that refuses is still asked; what is not durable by then was never acknowledged.
        """
        self._line.put(self._end)
        self._writer.join(patience)
        self._stopping.set()
        self._writer.join()
        if self.room.used:
            log.error("stopped with %d bytes that the disk did not take", self.room.used, extra={"code": "NOT_DURABLE"})
        self._work.set()
        self._committer.join()
        self._encoders.stop()
        self._closers.shutdown()
        self._removers.shutdown()
        self._syncs.shutdown()

    def _end(self) -> None:
        self._ended = True
        self._line.woken.set()

    def _written(self) -> None:
        """Something may be waiting for a commit. Setting an event that is set costs as much as waking somebody."""
        if not self._work.is_set():
            self._work.set()

    def _failed(self, error: Exception) -> None:
        """One bad item must not stop the others; its stream shows the hole as a gap or in the ledger."""
        if not (self._stopping.is_set() and isinstance(error, DiskError)):
            log.error("recording an item failed", exc_info=error)

    def _write_loop(self) -> None:
        """Do what no encoder comes back for, and let the series look at their segments now and then."""
        ticked = time.monotonic()
        while not self._ended:
            self._line.woken.wait(TICK)
            self._line.woken.clear()
            self._line.advance()
            if time.monotonic() - ticked > TICK:
                ticked = time.monotonic()
                with self._line.alone():
                    for series in list(self._series):
                        self._tick(series)
                self._work.set()

    def _tick(self, series: Series) -> None:
        try:
            series.tick()
        except Exception:
            log.exception("%s: closing a segment failed", series.name)

    def _commit_loop(self) -> None:
        while not self._stopping.is_set():
            self._work.wait()
            self._work.clear()
            found = [series.segment for series in list(self._series)]
            self._asked = time.monotonic()
            self._commit([s for s in found if s is not None and s.failed is None and s.dirty()])
            self._asked = None
            self._stopping.wait(COMMIT_PAUSE)

    def _commit(self, segments: Sequence[SegmentWriter]) -> None:
        """One commit of all segments: for each, acknowledge the point sampled before any of the syncs began."""
        with contextlib.ExitStack() as held:
            begun: list[tuple[SegmentWriter, Sample, list[Future[None]]]] = []
            for segment in segments:
                if not segment.committing.acquire(blocking=False):
                    # It is being closed, which commits it, or given up: the others do not wait for that.
                    continue
                held.callback(segment.committing.release)
                if segment.released:
                    continue
                try:
                    sample = segment.sample()
                    syncs = [self._syncs.submit(segment.sync_payload), self._syncs.submit(segment.sync_journal)]
                except Exception as error:
                    _given_up(segment, error)
                else:
                    begun.append((segment, sample, syncs))
            for segment, sample, syncs in begun:
                # All of them, whatever the first one says: no file may be closed while it is being synced.
                failures = [failure for sync in syncs if (failure := sync.exception()) is not None]
                try:
                    if failures:
                        raise failures[0]
                    self.latencies.extend(segment.confirm(sample))
                    self.commits += 1
                except Exception as error:
                    _given_up(segment, error)


def _given_up(segment: SegmentWriter, error: Exception) -> None:
    """A commit failed: unless the segment knows already, because its disk said so, it is told."""
    if segment.failed is None:
        segment.failed = DiskError("A commit failed", why=str(error), code="COMMIT_FAILED")
        log.error("segment %s: a commit failed; its series goes on in another", segment.name, exc_info=error)
