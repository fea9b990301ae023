"""Which run of a day something belongs to, and what decides that and begins such runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from edge_agent.runs.live import LiveRun
from edge_agent.runs.routing import Route


@dataclass(frozen=True, slots=True)
class Day:
    """The date and the route, as they were decided when the first that belongs to it came (``t_ns``, UTC)."""

    on: date
    route: Route
    t_ns: int

    @property
    def key(self) -> tuple[date, str]:
        """A group has one run for each day and project."""
        return self.on, self.route.project


class Days(Protocol):
    """What a group asks about the runs of its days."""

    def today(self, group: str, project: str = "") -> Day:
        """Where what comes now belongs, or a file whose path names its project. Asked for every item: no disk."""
        ...

    def begin_run(self, group: str, day: Day) -> LiveRun:
        """Begin such a run; takes as long as the disk takes.

        Raises:
            DiskError: the disk refused.
        """
        ...

    def soon(self, work: Callable[[], None]) -> None:
        """Have the thread that begins runs do this; returns at once."""
        ...
