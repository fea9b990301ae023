"""Lets a recording end only when no put is under way: one that waits for room belongs to the run in which it was made."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Gate:
    """Counts who is inside; closes once, behind the last one."""

    def __init__(self) -> None:
        """Open, and nobody inside."""
        self._lock = threading.Lock()
        self._inside = 0
        self._then: Callable[[], None] | None = None

    def enter(self) -> bool:
        """Go in, or be told that the gate is closed."""
        with self._lock:
            if self._then is not None:
                return False
            self._inside += 1
            return True

    def leave(self) -> None:
        """Go out; the last one out of a closed gate does what `close` was given."""
        with self._lock:
            self._inside -= 1
            then = self._then if self._inside == 0 else None
        if then is not None:
            then()

    def close(self, then: Callable[[], None]) -> None:
        """Let nobody in any more, and do ``then`` when everybody is out."""
        with self._lock:
            self._then = then
            empty = self._inside == 0
        if empty:
            then()
