"""The thread that empties the queues of PV Access subscriptions: one an instrument, so that its updates keep their order.

p4p's own threads are woken for each update. With some ten thousand updates a second they and the others hand the interpreter to each
other as often, which costs more than the updates, and whoever makes many short calls meanwhile (HDF5 closing a segment) waits after each
of them. Here p4p says once that a queue is no longer empty, and what came until the next round is taken in one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Protocol

REST_SECONDS = 0.02
"""A PV that changes two thousand times a second leaves forty updates in p4p's queue of a hundred meanwhile."""

log = logging.getLogger(__name__)


class Queue(Protocol):
    """Something that is emptied in rounds."""

    def drain(self) -> bool:
        """Take what waits, or a part of it; whether there may be more."""
        ...


class Rounds:
    """Empties each `Queue` that has something, again and again, and rests in between."""

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self._filled: deque[Queue] = deque()
        self._woken = threading.Event()
        self._ends = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def visit(self, queue: Queue) -> None:
        """Drain ``queue`` soon; from any thread."""
        self._filled.append(queue)
        if not self._woken.is_set():
            self._woken.set()

    def stop(self) -> None:
        """End the thread, after a last round."""
        self._ends = True
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            self._woken.wait()
            self._woken.clear()
            last = self._ends  # before the round: what was there when the end was asked for is taken
            for _ in range(len(self._filled)):
                self._drain(self._filled.popleft())
            if not last:
                time.sleep(REST_SECONDS)

    def _drain(self, queue: Queue) -> None:
        try:
            more = queue.drain()
        except Exception:
            # Nobody would tell us of it again, since it is not empty.
            log.exception("a queue could not be emptied")
            more = True
        if more:
            self.visit(queue)
