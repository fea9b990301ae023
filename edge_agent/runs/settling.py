"""Vendor files on their way from the recorder into the outbox.

Those that became durable while the database was busy go in together, with one sync. Invariants: whoever waits for a file is told after
it is in the outbox, and in the order in which the files became durable; what the database refuses stays here and is tried again.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

from edge_agent.errors import DiskError, EdgeAgentError
from edge_agent.spool.spool import Spool

log = logging.getLogger(__name__)

TOGETHER = 64
"""Files in one commit at most: the others who use the database wait for it."""


class _File(NamedTuple):
    """``add`` puts it into the outbox, ``told`` is called when it is there."""

    add: Callable[[], None]
    told: Callable[[], None]


class Settling:
    """See the module. Thread-safe."""

    def __init__(self, spool: Spool, kick: Callable[[], None]) -> None:
        """``kick`` is told that there is something to send."""
        self._spool = spool
        self._kick = kick
        self._waiting: deque[_File] = deque()
        self._asked = threading.Event()
        self._turn = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="settle")

    def put(self, add: Callable[[], None], told: Callable[[], None]) -> None:
        """A file is durable; returns at once. ``add`` must bear being done again after a failure."""
        self._waiting.append(_File(add, told))
        if not self._asked.is_set():
            self._asked.set()
            self._thread.submit(self._soon)

    def settle(self) -> None:
        """Put in what waits; what the database refuses now is tried again by the next call (a few times a second)."""
        with self._turn:
            while together := list(islice(self._waiting, TOGETHER)):
                try:
                    self._add(together)
                except (sqlite3.Error, OSError, DiskError) as error:
                    log.warning("a file waits for the spool's database: %s", error, extra={"code": "SPOOL_WRITE"})
                    return
                for file in together:
                    self._waiting.popleft()
                    file.told()
                self._kick()

    def close(self) -> None:
        """End the thread, after what was put; what the database refused is found again by the next start."""
        self._thread.shutdown()

    def _soon(self) -> None:
        self._asked.clear()
        self.settle()

    def _add(self, files: Sequence[_File]) -> None:
        """All of them, or each by itself where one cannot be put in."""
        try:
            with self._spool.transaction():
                for file in files:
                    file.add()
        except DiskError:
            raise
        except EdgeAgentError as error:
            if len(files) > 1:
                for file in files:
                    self._add([file])
                return
            # Not a passing fault: the file is signed in its run, and this says what is wrong with its delivery.
            log.error("a file cannot be delivered: %s", error, extra={"code": error.code})
