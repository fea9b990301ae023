"""The recorder: encoder threads, one writer thread, one commit thread (docs/recording.md).

Frames are encoded and hashed in encoder threads, in parallel; the writer thread takes everything in the order in which it was offered and
owns HDF5; the commit thread makes it durable: both syncs of a segment run in parallel, and the next commit begins 5 ms after the last one
ended. Room is bounded by bytes that are not durable yet: `try_enter` refuses, so a slow disk is felt at the inlets and nowhere else.
Invariant: neither thread ends before `stop`, whatever an item, a callback or the disk does.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edge_agent.codec import Buffers, encoder
from edge_agent.codec.buffers import rounded
from edge_agent.errors import DiskError
from edge_agent.record.items import Encoded
from edge_agent.record.room import PER_ITEM, Charge, Room
from edge_agent.record.segment_writer import SegmentWriter
from edge_agent.record.series import Series

log = logging.getLogger(__name__)

T = TypeVar("T")

COMMIT_PAUSE = 0.005
TICK = 0.5
DISK_RETRY = 0.2
DISK_REMINDER = 60.0
PATIENCE = 10.0


class Recorder:
    """Threads and bounds shared by all series of the agent."""

    def __init__(self, *, encoders: int = 2, room: int = 128 << 20) -> None:
        """Start the threads. ``room`` bounds what is not durable yet: raw bytes, then encoded ones; buffers get twice as much."""
        self.room = Room(room)
        self.latencies: list[float] = []
        self.commits = 0
        self._buffers = Buffers(2 * room)
        self._encoders = ThreadPoolExecutor(encoders, "encode")
        self._syncs = ThreadPoolExecutor(4, "sync")
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._series: list[Series] = []
        self._stopping = threading.Event()
        self._warned = float("-inf")
        self._work = threading.Event()
        self._writer = threading.Thread(target=self._write_loop, name="writer", daemon=True)
        self._committer = threading.Thread(target=self._commit_loop, name="commit", daemon=True)
        self._writer.start()
        self._committer.start()

    def encode(self, codec: str, data: npt.NDArray[Any], charge: Charge) -> Future[Encoded]:
        """Encode and hash one frame in an encoder thread; then only what is stored of it takes room."""
        return self._encoders.submit(self._encode, codec, data, charge)

    def _encode(self, codec: str, data: npt.NDArray[Any], charge: Charge) -> Encoded:
        chosen = encoder(codec)
        bound = chosen.bound(data.nbytes, data.dtype.itemsize)
        view, release = self._buffer(bound)
        try:
            size, mask = chosen.encode(np.ascontiguousarray(data), view, data.dtype.itemsize)
            stored = view[:size]
            charge.shrink(size + PER_ITEM)
            return Encoded(stored, mask, hashlib.sha256(stored).digest(), release)
        except BaseException:
            release()
            raise

    def _buffer(self, nbytes: int) -> tuple[memoryview, Callable[[], None]]:
        """A buffer, and how to give it back; an item larger than the pool passes the room alone and gets its own."""
        if rounded(nbytes) > self._buffers.limit:
            return memoryview(bytearray(nbytes)), lambda: None
        lease = self._buffers.take(nbytes)
        return lease.view, lease.release

    def submit(self, job: Callable[[], None]) -> None:
        """Run ``job`` on the writer thread, after everything submitted before."""
        self._jobs.put(job)

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

        self._jobs.put(run)
        return future

    def attach(self, series: Series) -> None:
        """Commit and tick this series from now on (writer thread)."""
        self._series.append(series)

    def detach(self, series: Series) -> None:
        """Stop doing so (writer thread)."""
        if series in self._series:
            self._series.remove(series)

    def wait_for_disk(self, error: DiskError) -> None:
        """Pause the writer after a disk error; inlets push back meanwhile.

        Raises:
            DiskError: the recorder is stopping and its patience is over.
        """
        now = time.monotonic()
        if now - self._warned >= DISK_REMINDER:
            self._warned = now
            log.warning("the disk failed, going on in a new segment: %s", error, extra={"code": error.code})
        if self._stopping.wait(DISK_RETRY):
            raise error

    def alive(self) -> bool:
        """Whether the writer and the commit thread live."""
        return self._writer.is_alive() and self._committer.is_alive()

    def stop(self, patience: float = PATIENCE) -> None:
        """Drain, then end the threads. Series must be rolled before.

        Args:
            patience: seconds for which a disk that refuses is still asked; what is not durable by then was never acknowledged.
        """
        self._jobs.put(None)
        self._writer.join(patience)
        self._stopping.set()
        self._writer.join()
        if self.room.used:
            log.error("stopped with %d bytes that the disk did not take", self.room.used, extra={"code": "NOT_DURABLE"})
        self._work.set()
        self._committer.join()
        self._encoders.shutdown()
        self._syncs.shutdown()

    def _write_loop(self) -> None:
        ticked = time.monotonic()
        while True:
            try:
                job = self._jobs.get(timeout=TICK)
                if job is None:
                    return
                job()
            except queue.Empty:
                pass
            except Exception as error:
                # One bad item must not stop the others; the item's stream shows the hole as a gap or in the ledger.
                if not (self._stopping.is_set() and isinstance(error, DiskError)):
                    log.exception("recording an item failed")
            self._work.set()
            if time.monotonic() - ticked > TICK:
                ticked = time.monotonic()
                for series in list(self._series):
                    self._tick(series)

    def _tick(self, series: Series) -> None:
        try:
            series.tick()
        except Exception:
            log.exception("%s: closing a segment failed", series.name)

    def _commit_loop(self) -> None:
        while not self._stopping.is_set():
            self._work.wait()
            self._work.clear()
            segments = [s.segment for s in list(self._series)]
            for segment in segments:
                if segment is not None and segment.failed is None and segment.dirty():
                    self._commit(segment)
            self._stopping.wait(COMMIT_PAUSE)

    def _commit(self, segment: SegmentWriter) -> None:
        """One commit of one segment: acknowledge the point sampled before both syncs began."""
        with segment.committing:
            if segment.released:
                return
            try:
                sample = segment.sample()
                syncs = [self._syncs.submit(segment.sync_payload), self._syncs.submit(segment.sync_journal)]
                wait(syncs)
                for sync in syncs:
                    sync.result()
            except Exception as error:
                if segment.failed is None:
                    segment.failed = DiskError("A commit failed", why=str(error), code="COMMIT_FAILED")
                    log.exception("segment %s: a commit failed; its series goes on in another", segment.name)
                return
            self.latencies = (self.latencies + segment.confirm(sample))[-2000:]
            self.commits += 1
