"""The recorder: encoder threads, one writer thread, one commit thread (docs/recording.md).

Frames are encoded and hashed in encoder threads, in parallel; the writer thread takes everything in the order in which it was offered and owns HDF5; the commit thread
makes it durable: both syncs of a segment run in parallel, and the next commit begins 5 ms after the last one ended. Room is bounded by bytes that are not
durable yet: `try_enter` refuses, so a slow disk is felt at the inlets and nowhere else.
"""

from __future__ import annotations

import asyncio
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
from edge_agent.errors import DiskError
from edge_agent.record.items import Encoded
from edge_agent.record.segment_writer import SegmentWriter
from edge_agent.record.series import Series

log = logging.getLogger(__name__)

T = TypeVar("T")

COMMIT_PAUSE = 0.005
TICK = 0.5


class Room:
    """Bytes on their way; bounded. Threads ask with `try_enter`, coroutines wait in `enter`."""

    def __init__(self, limit: int) -> None:
        """``limit`` in bytes; one item larger than it passes when nothing else is on its way."""
        self.limit = limit
        self.used = 0
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def try_enter(self, size: int) -> bool:
        """Take ``size`` bytes, or say no."""
        with self._lock:
            if self.used and self.used + size > self.limit:
                return False
            self.used += size
            return True

    def force(self, size: int) -> None:
        """Take ``size`` bytes whether there is room or not (small things that must not wait)."""
        with self._lock:
            self.used += size

    async def enter(self, size: int) -> None:
        """Wait for ``size`` bytes."""
        while not self.try_enter(size):
            loop = asyncio.get_running_loop()
            waiter = loop.create_future()
            with self._lock:
                self._waiters.append((loop, waiter))
            if self.used == 0:
                self._wake()
            await waiter

    def leave(self, size: int) -> None:
        """Give ``size`` bytes back."""
        with self._lock:
            self.used -= size
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, []
        for loop, waiter in waiters:
            loop.call_soon_threadsafe(_resolve, waiter)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Recorder:
    """Threads and bounds shared by all series of the agent."""

    def __init__(self, *, encoders: int = 2, room: int = 128 << 20) -> None:
        """Start the threads. ``room`` bounds raw bytes that are not durable yet; encoded bytes get as much again."""
        self.room = Room(room)
        self.latencies: list[float] = []
        self.commits = 0
        self._buffers = Buffers(3 * room)  # sizes are rounded up to powers of two
        self._encoders = ThreadPoolExecutor(encoders, "encode")
        self._syncs = ThreadPoolExecutor(4, "sync")
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._series: list[Series] = []
        self._stopping = threading.Event()
        self._work = threading.Event()
        self._writer = threading.Thread(target=self._write_loop, name="writer", daemon=True)
        self._committer = threading.Thread(target=self._commit_loop, name="commit", daemon=True)
        self._writer.start()
        self._committer.start()

    def encode(self, codec: str, data: npt.NDArray[Any]) -> Future[Encoded]:
        """Encode and hash one frame in an encoder thread."""
        return self._encoders.submit(self._encode, codec, data)

    def _encode(self, codec: str, data: npt.NDArray[Any]) -> Encoded:
        chosen = encoder(codec)
        lease = self._buffers.take(chosen.bound(data.nbytes, data.dtype.itemsize))
        size, mask = chosen.encode(np.ascontiguousarray(data), lease.view, data.dtype.itemsize)
        stored = lease.view[:size]
        return Encoded(stored, mask, hashlib.sha256(stored).digest(), lease.release)

    def submit(self, job: Callable[[], None]) -> None:
        """Run ``job`` on the writer thread, after everything submitted before."""
        self._jobs.put(job)

    def call(self, job: Callable[[], T]) -> Future[T]:
        """Like `submit`, with a result."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(job())
            except Exception as error:  # noqa: BLE001 - it reaches the caller
                future.set_exception(error)

        self._jobs.put(run)
        return future

    def attach(self, series: Series) -> None:
        """Commit and tick this series from now on (writer thread)."""
        self._series.append(series)

    def detach(self, series: Series) -> None:
        """Stop doing so (writer thread)."""
        self._series.remove(series)

    def wait_for_disk(self, error: DiskError) -> None:
        """Pause the writer after a disk error; inlets push back meanwhile."""
        log.warning("the disk failed, going on in a new segment: %s", error, extra={"code": error.code})
        self._stopping.wait(0.2)

    def alive(self) -> bool:
        """Whether the writer and the commit thread live."""
        return self._writer.is_alive() and self._committer.is_alive()

    def stop(self) -> None:
        """Drain, then end the threads. Series must be rolled before."""
        self._jobs.put(None)
        self._writer.join()
        self._stopping.set()
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
            except Exception:
                # One bad item must not stop the others; the item's stream shows the hole as a gap or in the ledger.
                log.exception("recording an item failed")
            self._work.set()
            if time.monotonic() - ticked > TICK:
                ticked = time.monotonic()
                for series in list(self._series):
                    series.tick()

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
            except DiskError:
                log.debug("segment %s failed; its series goes on in another", segment.name)
                return
            self.latencies = (self.latencies + segment.confirm(sample))[-2000:]
            self.commits += 1
