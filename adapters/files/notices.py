"""The system's notices about a folder, as hints: they make files be seen sooner, and nothing depends on them.

Invariants: watchdog's threads only put paths aside, at most `MOST_PATHS` (beyond, a whole look is asked for); a system that
gives no notices, or has no room for them, is said once and means no more than waiting for the next look.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver

MOST_PATHS = 50_000

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Hints:
    """Paths that something happened to. ``closed`` holds those that were closed after writing or renamed into place."""

    touched: set[Path] = field(default_factory=set)
    closed: set[Path] = field(default_factory=set)
    overflow: bool = False


class Notices(FileSystemEventHandler):
    """Collects notices about one folder; made on the agent's loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._hints = Hints()
        self._news = asyncio.Event()
        self._observer: BaseObserver | None = None
        self._complained = False
        self._root, self._recursive = Path(), False

    def start(self, root: Path, *, recursive: bool) -> None:
        """Begin to listen; blocking. Without success the folder is only looked through."""
        self._root, self._recursive = root, recursive
        observer = Observer()
        events: list[type[FileSystemEvent]] = [FileClosedEvent, FileMovedEvent, FileCreatedEvent]
        if sys.platform != "linux":  # elsewhere nobody says "closed"
            events.append(FileModifiedEvent)
        observer.schedule(self, str(root), recursive=recursive, event_filter=events)
        # A folder that appears while watchdog walks through its parent is watched twice over, by the same callback: no harm.
        warnings.filterwarnings("ignore", "Callback with id .* already exists for watch", RuntimeWarning)
        try:
            observer.start()
        except OSError as e:
            if not self._complained:
                self._complained = True
                log.warning("%s: no notices by the system (%s), it is looked through instead; raise fs.inotify.max_user_watches", root, e)
            return
        self._observer = observer

    def stop(self) -> None:
        """Stop listening; blocking."""
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join()

    def renew(self) -> None:
        """Listen again when listening ended by itself, as it does when the folder is replaced; blocking."""
        observer = self._observer
        if observer is not None and not all(emitter.is_alive() for emitter in (observer, *observer.emitters)):
            self.stop()
            self.start(self._root, recursive=self._recursive)

    def dispatch(self, event: FileSystemEvent) -> None:
        """Put the path aside (a thread of watchdog)."""
        if event.is_directory:
            return
        path = Path(os.fsdecode(event.dest_path or event.src_path))
        with self._lock:
            if len(self._hints.touched) >= MOST_PATHS:
                self._hints.overflow = True
            else:
                self._hints.touched.add(path)
                if isinstance(event, FileClosedEvent | FileMovedEvent):
                    self._hints.closed.add(path)
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:
            log.debug("a notice came after the loop had ended: %s", path)

    async def take(self, timeout: float) -> Hints:
        """What came; empty after ``timeout`` seconds without any."""
        try:
            async with asyncio.timeout(max(timeout, 0)):
                await self._news.wait()
        except TimeoutError:
            return Hints()
        self._news.clear()
        with self._lock:
            hints, self._hints = self._hints, Hints()
        return hints
