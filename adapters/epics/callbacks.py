"""The thread in which p4p calls back: one an instrument, so that its callbacks keep their order.

p4p's own queue wakes its thread for each update. With some ten thousand updates a second two threads then hand the interpreter to each
other as often, and a third one, which closes a segment by many short calls of HDF5, waits for both after each of them. Here the thread
rests after each round, and what came meanwhile is one round.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

REST_SECONDS = 0.005
"""A PV that changes a thousand times a second leaves five updates in p4p's queue of a hundred meanwhile."""

log = logging.getLogger(__name__)


class Callbacks:
    """What p4p asks of a ``queue``: `push` and `push_wait`, from any thread. Jobs are done in their order; one that fails is logged."""

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self._jobs: deque[Callable[[], None] | None] = deque()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def push(self, job: Callable[[], None]) -> None:
        """Do ``job`` soon."""
        self._jobs.append(job)
        if not self._woken.is_set():
            self._woken.set()

    push_wait = push

    def is_current(self) -> bool:
        """Whether this is its thread."""
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """End the thread, after everything that was pushed."""
        self._jobs.append(None)
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._woken.wait()
            self._woken.clear()
            while self._jobs:
                job = self._jobs.popleft()
                if job is None:
                    return
                try:
                    job()
                except Exception:
                    log.exception("a callback of p4p failed")
            time.sleep(REST_SECONDS)
