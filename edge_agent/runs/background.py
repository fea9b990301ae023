"""The runs of the day of one group: which one takes what comes now, and what waits until such a run has begun.

To begin a run takes a database, an agent log and several syncs. Whoever brings something is never made to wait for them: runs begin in a
thread of their own, outside the group's lock. Meanwhile what belongs to such a run waits in the backlog, and a run is known only when
all that waited for it was handed over: so whatever comes queues behind it, and the order of each stream is kept.

A day and a route are decided when an item comes, so what waits over midnight, or while the routing decides another project, goes where it
would have gone at once. Used under the group's lock, except `begin` and `settle`, which wait for the disk and take the lock themselves.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from datetime import date

from edge_agent.errors import DiskError
from edge_agent.model import Block, Cause, Frame, Gap, Kind, Reset, Stream
from edge_agent.runs.backlog import Backlog, Due
from edge_agent.runs.day import Day, Days
from edge_agent.runs.last_known import Known, LastKnown, give
from edge_agent.runs.live import LiveRun
from edge_agent.runs.rows import events

log = logging.getLogger(__name__)
WAITING_GAPS = 1000
RETRY = 1.0
"""Seconds for which nobody tries again to begin a run that the disk refused."""
SLICE = 100
"""Items that are handed over at a time: whoever waits for the lock meanwhile does not wait long."""


class Background:
    """See the module."""

    def __init__(self, group: str, days: Days, lock: threading.RLock, last: LastKnown) -> None:
        """No run has begun."""
        self.current: LiveRun | None = None
        """The run that took the last item."""
        self._group = group
        self._days = days
        self._lock = lock
        self._last = last
        self._backlog = Backlog(last.now)
        self._runs: dict[str, tuple[date, LiveRun]] = {}
        """By project."""
        self._over: list[LiveRun] = []
        self._taking: list[LiveRun] = []
        """Runs that are not closed yet, those of yesterday among them."""
        self._gaps: deque[tuple[Stream, Gap]] = deque(maxlen=WAITING_GAPS)
        """Gaps of streams of which nothing waits: alone they begin no run."""
        self._beginning = threading.Lock()
        self._asked = False
        self._refusal: tuple[float, Exception] | None = None

    @property
    def awaited(self) -> bool:
        """Whether something waits for a run to begin."""
        return self._backlog.first() is not None

    def streams(self) -> set[str]:
        """The streams of which something waits for a run, or for room in one."""
        return self._backlog.streams().union(*(live.intake.streams() for live in self._taking))

    def begun(self) -> bool:
        """Whether the run that would take what comes now has begun, or will, because something waits for it."""
        day = self._days.today(self._group)
        return self._known(day) is not None or self._backlog.waits(day)

    def frame(self, stream: Stream, frame: Frame, *, waited: bool = False, late: bool = False) -> bool:
        """Take one frame. False: refused, and it will be declared; or, where its source ``waited`` for room, not now.

        ``late``: it comes out of the look-back with many others, so it queues for room.
        """
        day = self._days.today(self._group)
        live = self._run(day)
        if live is not None and late:
            live.intake.frame_later(stream, frame)
            return True
        if live is not None:
            return live.intake.frame(stream, frame, waited=waited)
        taken = self._backlog.add(day, stream, frame)
        if not taken and not waited:
            cause, why = self._no_room()
            self._backlog.refuse(day, stream, Gap(cause, frame.number, frame.number, 1, frame.t_arrival, frame.t_arrival, why))
        self._ask()
        return taken

    def rows(self, stream: Stream, block: Block) -> bool:
        """Take rows; whether a run has them already."""
        day = self._days.today(self._group)
        live = self._run(day)
        if live is not None:
            live.intake.rows(stream, block)
            return True
        if not self._backlog.add(day, stream, block) and (n := events(block)):
            cause, why = self._no_room()
            self._backlog.refuse(day, stream, Gap(cause, None, None, n, int(block.t_arrival[0]), int(block.t_arrival[-1]), why))
        self._ask()
        return False

    def gap(self, stream: Stream, gap: Gap) -> None:
        """Declare a gap, behind what waits of its stream. Alone it begins no run: it waits for the run that the next data begins."""
        live = self._run(self._days.today(self._group))
        if live is not None:
            live.intake.gap(stream, gap)
        elif not self._backlog.add_behind(stream, gap):
            self._gaps.append((stream, gap))

    def reset(self, stream: Stream, reset: Reset) -> None:
        """Declare that a frame counter began again; in a run that has not begun, only behind what waits of it."""
        live = self._known(self._days.today(self._group))
        if live is not None:
            live.intake.reset(stream, reset)
        else:
            self._backlog.add_behind(stream, reset)

    def file_run(self, project: str) -> tuple[Day, LiveRun | None]:
        """Where a file belongs that names this project, or none; None: that run has not begun (`begin`)."""
        day = self._days.today(self._group, project)
        return day, self._known(day) if project else self._run(day)

    def begin(self, day: Day) -> LiveRun:
        """The run of that day, after it took what waited for it; waits for the disk, so never under the group's lock.

        Raises:
            DiskError: the disk let none begin, now or a moment ago.
        """
        with self._beginning:
            with self._lock:
                live = self._known(day)
                if live is not None:
                    return live
                if self._refusal is not None and time.monotonic() < self._refusal[0]:
                    raise self._refusal[1]
            try:
                live = self._days.begin_run(self._group, day)
                self._hand_over(live, day)
            except Exception as error:
                with self._lock:
                    self._refused(error)
                raise
            return live

    def settle(self) -> None:
        """The daemon stops: begin what is waited for, if the disk lets it."""
        with self._lock:
            self._refusal = None
        self._begin_all()

    def give_up(self) -> Mapping[str, int]:
        """Let go of what still waits: how many items of each stream."""
        return self._backlog.give_up()

    def go_on(self, live: LiveRun, day: date) -> None:
        """This is the run of that day for its project; when that day is over already, it takes nothing new."""
        self._taking.append(live)
        if day != self._days.today(self._group).on:
            self._over.append(live)
            return
        before = self._runs.get(live.entry.run.project)
        if before is not None:
            self._over.append(before[1])
        self._runs[live.entry.run.project] = day, live

    def over(self, *, everything: bool = False) -> list[LiveRun]:
        """The runs of other days, or all, which take nothing new from now on; whoever asks closes them."""
        today = self._days.today(self._group).on
        over, self._over = self._over, []
        for project, (day, live) in list(self._runs.items()):
            if everything or day != today:
                del self._runs[project]
                over.append(live)
        return over

    def forget(self, live: LiveRun) -> None:
        """A run was closed."""
        if live in self._taking:
            self._taking.remove(live)
        if self.current is live:
            self.current = None

    def look(self) -> None:
        """Go on with what waits for room, and with what waits for a run that the disk refused."""
        for live in self._taking:
            live.intake.drain()
        if self.awaited:
            self._ask()

    def _known(self, day: Day) -> LiveRun | None:
        known = self._runs.get(day.route.project)
        return known[1] if known is not None and known[0] == day.on else None

    def _run(self, day: Day) -> LiveRun | None:
        """The run of that day; one that did not take the item before gets the last known values first."""
        live = self._known(day)
        if live is not None and live is not self.current:
            self._turn_to(live, self._last.now())
        return live

    def _turn_to(self, live: LiveRun, known: Known) -> None:
        self.current = live
        give(live, known)
        gaps, self._gaps = self._gaps, deque(maxlen=WAITING_GAPS)
        for stream, gap in gaps:
            self._give(live, Due(stream, gap))

    def _ask(self) -> None:
        """Have the runs begun for which something waits; at once, where the disk did not refuse a moment ago."""
        if not self._asked and (self._refusal is None or time.monotonic() >= self._refusal[0]):
            self._asked = True
            self._days.soon(self._begin_all)

    def _begin_all(self) -> None:
        while True:
            with self._lock:
                day = self._backlog.first()
                if day is None:
                    self._asked = False
                    return
            try:
                self.begin(day)
            except Exception:
                # It was told, and is tried again: what waits must not wait for a restart.
                with self._lock:
                    self._asked = False
                return

    def _refused(self, error: Exception) -> None:
        if self._refusal is None and isinstance(error, DiskError):
            log.warning(
                "%s: no run can begin; what comes waits, and what finds no room is refused and declared: %s", self._group, error,
                extra={"code": error.code},
            )  # fmt: skip
        elif self._refusal is None:
            log.error("%s: no run can begin; what comes waits", self._group, exc_info=error, extra={"code": "RUN_STUCK"})
        self._refusal = time.monotonic() + RETRY, error

    def _no_room(self) -> tuple[Cause, str]:
        if self._refusal is None:
            return Cause.OVERLOAD, "no room"
        error = self._refusal[1]
        return Cause.DISK, f"no run could begin: {error.why if isinstance(error, DiskError) else type(error).__name__}"

    def _hand_over(self, live: LiveRun, day: Day) -> None:
        """What waits for a run that has begun, a slice at a time; with the last one the run is known."""
        turned = False
        while True:
            with self._lock:
                self._refusal = None
                if not turned and self._backlog.waits(day):
                    self._turn_to(live, self._backlog.known(day))
                    turned = True
                for due in self._backlog.take(day, SLICE):
                    self._give(live, due)
                live.intake.drain()
                if not self._backlog.waits(day):
                    self.go_on(live, day.on)
                    return
            time.sleep(0)  # whoever waits for the lock has it first

    def _give(self, live: LiveRun, due: Due) -> None:
        stream, item = due.stream, due.item
        try:
            if isinstance(item, Frame):
                live.intake.frame_later(stream, item)
            elif isinstance(item, Block):
                live.intake.rows(stream, item)
            elif isinstance(item, Gap):
                live.intake.gap(stream, item, refused=due.refused and stream.kind is Kind.FRAMES)
            else:
                live.intake.reset(stream, item)
        except Exception:
            # Its adapter cannot be told any more; whatever it is costs this item, and the others must go on.
            log.exception("%s: an item that waited for its run cannot be recorded", stream.key)
