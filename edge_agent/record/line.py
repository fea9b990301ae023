"""Jobs in the order in which they came, one at a time, each done by whichever thread finds it next and ready.

A frame's job becomes ready in the encoder thread that encoded it, while the bytes are still in that core's cache: writing them there costs
the kernel far less than fetching them from memory in another thread, and no thread is woken for it. Jobs that are ready from the
beginning (rows, gaps, the end of a run) are done by the writer thread, which `put` wakes. Invariant: nobody does a job while another one is
being done, or before one that came earlier.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol


class Awaited(Protocol):
    """What a job needs first."""

    @property
    def ready(self) -> bool:
        """Whether it is there."""
        ...


class _Job(NamedTuple):
    run: Callable[[], None]
    awaited: Awaited | None


class Line:
    """See the module. ``failed`` hears of what a job raised; ``done`` is called after each one."""

    def __init__(self, failed: Callable[[Exception], None], done: Callable[[], None]) -> None:
        """Empty."""
        self.woken = threading.Event()
        """Set when a job came that no encoder will come back for."""
        self._failed = failed
        self._done = done
        self._jobs: deque[_Job] = deque()
        self._turn = threading.Lock()

    def put(self, run: Callable[[], None], awaited: Awaited | None = None) -> None:
        """Add a job. Whoever makes ``awaited`` ready calls `advance` afterwards."""
        self._jobs.append(_Job(run, awaited))
        if awaited is None:
            self.woken.set()

    def advance(self) -> None:
        """Do what is next and ready, unless somebody is at it; he then goes on with it."""
        while self._is_ready() and self._turn.acquire(blocking=False):
            try:
                while self._is_ready():
                    run = self._jobs.popleft().run
                    try:
                        run()
                    except Exception as error:
                        self._failed(error)
                    self._done()
            finally:
                self._turn.release()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this is held, no job is done."""
        with self._turn:
            yield
        self.advance()

    def _is_ready(self) -> bool:
        try:
            awaited = self._jobs[0].awaited
        except IndexError:
            return False
        return awaited is None or awaited.ready
