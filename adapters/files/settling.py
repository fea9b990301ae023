"""Decides when a file is finished. Pure: no file is touched, the clock is given.

A file is finished when size, time and inode stayed the same for the settling time, or for the short one after a notice that
a program closed it. What was taken once is forgotten only with the file; a later change begins again, as a new version.
Monotonic times are in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from adapters.files.scan import Seen


@dataclass(slots=True)
class Candidate:
    """A file that is not taken yet. ``t`` is when this state of it was first seen, UTC ns; ``due`` in monotonic seconds."""

    seen: Seen
    t: int
    due: float


@dataclass(slots=True)
class Settling:
    """The files of one folder by name. ``settle`` and ``settle_closed`` in seconds."""

    settle: float
    settle_closed: float
    _candidates: dict[str, Candidate] = field(default_factory=dict)
    _taken: dict[str, tuple[int, int]] = field(default_factory=dict)

    def see(self, seen: Seen, now: float, t: int, *, closed: bool = False) -> None:
        """A look found the file so; ``closed`` says that a program just closed it, or that its ready file is there."""
        if self._taken.get(seen.name) == (seen.size, seen.mtime_ns):
            self._candidates.pop(seen.name, None)
            return
        known = self._candidates.get(seen.name)
        if known is None or known.seen != seen:
            known = self._candidates[seen.name] = Candidate(seen, t, now + self.settle)
        if closed:
            known.due = min(known.due, now + self.settle_closed)

    def keep_only(self, names: Iterable[str]) -> None:
        """A whole look found these names; the others are gone."""
        there = set(names)
        for gone in self._candidates.keys() - there:
            del self._candidates[gone]
        for gone in self._taken.keys() - there:
            del self._taken[gone]

    def due(self, now: float) -> list[Candidate]:
        """What has settled, oldest first."""
        return sorted((c for c in self._candidates.values() if c.due <= now), key=lambda c: (c.seen.mtime_ns, c.seen.name))

    def waiting(self) -> list[Candidate]:
        """What is not taken yet, by name."""
        return sorted(self._candidates.values(), key=lambda c: c.seen.name)

    def next_due(self) -> float:
        """When the next file settles; infinity when none is waiting."""
        return min((c.due for c in self._candidates.values()), default=math.inf)

    def took(self, seen: Seen) -> None:
        """The file needs nothing any more, in this version."""
        self._candidates.pop(seen.name, None)
        self._taken[seen.name] = (seen.size, seen.mtime_ns)

    def vanished(self, name: str) -> None:
        """The file is not there any more."""
        self._candidates.pop(name, None)

    def later(self, name: str, due: float) -> None:
        """It did not work; try again at ``due``."""
        if name in self._candidates:
            self._candidates[name].due = due
