"""One run group: decides by time to which run each item belongs, and keeps a look-back so that no race loses data.

A group has at most one foreground run (a session or a trigger), runs that ended a moment ago and still take what belongs to them,
and one background run (daily, for what is kept between runs). An item goes to the run whose span holds its time (`LiveRun.holds`).
Otherwise its instrument's idle rule says: ``keep`` (background run), ``ignore`` (counted, not lost) or ``ring`` (kept in memory for
so long; a run that begins takes all of it).

Look-back: with a trigger, an item that no run holds waits `look_back` seconds before the idle rule applies, and a run that ended
stays as long, so the race between shutter and frame is decided by their times and not by who came first. Frames that arrive after
the shutter closed, but before the message says so, are in the run: nothing is held back while a run is open. Thread-safe:
everything may be called from any thread, and nothing but `run_for_file` waits for the disk; what a method hands to the recorder it
hands over before it returns. Runs of the day begin in another thread, and what belongs to them waits until then: see `background`.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum

import numpy as np

from edge_agent.errors import EdgeAgentError
from edge_agent.model import Block, FileItem, Frame, Gap, Kind, Reset, RunContext, Stream
from edge_agent.runs.background import Background
from edge_agent.runs.day import Days
from edge_agent.runs.last_known import LastKnown, give
from edge_agent.runs.live import LiveRun
from edge_agent.runs.look_back import LookBack
from edge_agent.runs.rows import events, initial_rows, masked

log = logging.getLogger(__name__)


class Idle(StrEnum):
    """What happens to data between runs."""

    KEEP = "keep"
    IGNORE = "ignore"
    RING = "ring"


@dataclass(frozen=True, slots=True)
class Rule:
    """Idle rule of one instrument; ``ring`` in seconds."""

    idle: Idle
    ring: float = 0.0


@dataclass(slots=True)
class Group:
    """See the module. ``days`` says where what nobody else takes belongs, and begins those runs."""

    name: str
    rules: dict[str, Rule]
    days: Days
    look_back: float = 0.0
    foreground: LiveRun | None = None
    ending: list[LiveRun] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    arrivals: dict[str, tuple[float, int]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    background: Background = field(init=False)
    _waiting: LookBack = field(default_factory=LookBack)
    _last: LastKnown = field(default_factory=LastKnown)
    _shut: bool = False
    _told_other_project: tuple[bytes, str] = (b"", "")

    def __post_init__(self) -> None:
        """No run is open."""
        self.background = Background(self.name, self.days, self.lock, self._last)

    def open(self, live: LiveRun) -> None:
        """Make ``live`` the foreground run: the last known value of each row stream first, then what waits and belongs to it."""
        with self.lock:
            self.foreground = live
            taken = self._waiting.take(live, lambda stream: self._rule(stream).idle is Idle.RING)
            give(live, {**self._last.now(), **{key: (*last, 0) for key, last in self._waiting.last_rows().items()}})
            for stream, gap in self._waiting.squeezed(live):
                live.intake.gap(stream, gap)
            for waiting in taken:
                if isinstance(waiting.item, Frame):
                    live.intake.frame_later(waiting.stream, waiting.item)
                elif isinstance(waiting.item, Block):
                    live.intake.rows(waiting.stream, waiting.item)
                    self._last.remember(waiting.stream, waiting.item, len(waiting.item) - 1)
                else:
                    live.intake.gap(waiting.stream, waiting.item)
            live.intake.drain()

    def end(self, end_ns: int) -> LiveRun | None:
        """The foreground run ends at this time (UTC ns); data up to it may still come until `close`."""
        with self.lock:
            live, self.foreground = self.foreground, None
            if live is not None:
                live.end_ns = end_ns
                self.ending.append(live)
            return live

    def close(self, live: LiveRun) -> None:
        """A run takes nothing more."""
        with self.lock:
            live.intake.finish()
            if live in self.ending:
                self.ending.remove(live)
            if self.foreground is live:
                self.foreground = None
            self.background.forget(live)

    def go_on(self, live: LiveRun, day: date) -> None:
        """A run of that day goes on after a restart."""
        with self.lock:
            self.background.go_on(live, day)

    def over(self, *, everything: bool = False) -> list[LiveRun]:
        """The runs of days that are over, or of all; whoever asks closes them."""
        with self.lock:
            return self.background.over(everything=everything)

    def shut(self) -> None:
        """The daemon stops: nothing that comes from now on is taken, and no run opens any more over what waits in the look-back."""
        with self.lock:
            self._shut = True
            for waiting in self._waiting.clear():
                self._idle(waiting.stream, waiting.item)

    def give_up(self) -> None:
        """The daemon stops, and what still waits for a run has none: say so, because nothing else will."""
        with self.lock:
            for key, n in self.background.give_up().items():
                log.error("%s: %d items are lost, no run could begin for them before the agent stopped", key, n, extra={"code": "RUN_LOST"})

    def unsettled(self) -> set[str]:
        """The streams of which the recorder does not have everything that is kept: it waits for a run of the day, or for room in a run."""
        with self.lock:
            return self.background.streams().union(*(live.intake.streams() for live in self._runs()))

    def offer(self, stream: Stream, frame: Frame, *, waited: bool = False) -> bool:
        """Route one frame; never blocks. False: refused, and declared; or, where its source ``waited`` for room, not now.

        Raises:
            ValueError: it is not what the stream says.
        """
        if frame.data.shape != stream.shape or frame.data.dtype.str != stream.dtype:
            found = f"{frame.data.shape} {frame.data.dtype.str}"
            raise ValueError(f"{stream.key}: a frame {found}, the stream says {stream.shape} {stream.dtype}")
        with self.lock:
            if self._shut:
                return False
            taken = self._route(stream, frame, waited)
            if taken or not waited:
                self._seen(stream, 1, frame.t_arrival)
            return taken

    def take(self, stream: Stream, block: Block) -> bool:
        """Route rows and hand them over; the caller waited for room. Whether it is known where all of them belong: none waits.

        Raises:
            ValueError: they are not what the stream says.
        """
        if not len(block):
            return True
        if block.values.shape[1:] != stream.shape or (stream.counted and block.seq is None):
            found = f"{block.values.shape[1:]}, {'no ' if block.seq is None else ''}seq"
            raise ValueError(f"{stream.key}: values of shape {found}; the stream says {stream.shape}, counted: {stream.counted}")
        with self.lock:
            if self._shut:
                return False
            self._seen(stream, events(block), int(block.t_arrival[-1]))
            if self.foreground is not None and self.foreground.holds_all(block):
                self.foreground.intake.rows(stream, block)
                self._last.remember(stream, block, len(block) - 1)
                return True
            left = np.ones(len(block), bool)
            initial = initial_rows(block)
            for live in self._runs():
                inside = left & live.inside(block)
                if live is self.foreground:
                    inside |= left & initial  # a last known value belongs to the open run, whatever its time
                if inside.any():
                    live.intake.rows(stream, masked(block, inside))
                    left &= ~inside
            if self.foreground is None and initial.any() and not self.background.begun():
                left &= ~initial  # alone it begins no run: it is remembered for the next one
            known = True
            if left.any() and self._waits(stream):
                self._waiting.add(stream, masked(block, left))
                known = False
            elif left.any():
                known = self._idle(stream, masked(block, left))
                left[:] = False
            settled = np.flatnonzero(~left)
            if settled.size:
                self._last.remember(stream, block, int(settled[-1]))
            return known

    def open_runs(self) -> list[RunContext]:
        """The runs that may take what comes now; none where that is not known before the look-back has passed."""
        with self.lock:
            if self.foreground is None and self.look_back:
                return []
            background = [] if self.background.current is None else [self.background.current]
            return [live.entry.run for live in (*self._runs(), *background)]

    def expire(self) -> None:
        """Apply the idle rule to what waited long enough, and go on with what waits for room or a run. Called a few times a second."""
        with self.lock:
            for waiting in self._waiting.overdue(self._patience):
                self._idle(waiting.stream, waiting.item)
                if isinstance(waiting.item, Block):
                    self._last.remember(waiting.stream, waiting.item, len(waiting.item) - 1)
            for live in self._runs():
                live.intake.drain()
            self.background.look()

    def gap(self, stream: Stream, gap: Gap) -> None:
        """A declared gap goes to the run over whose span it reaches, else it waits or goes where the instrument's data goes."""
        with self.lock:
            for live in self._runs():
                if live.touches(gap):
                    live.intake.gap(stream, gap)
                    return
            if self._waits(stream) and stream.kind is not Kind.FILES:
                self._waiting.add(stream, gap)
            else:
                self._idle(stream, gap)

    def reset(self, stream: Stream, reset: Reset) -> None:
        """A counter began again; rows have no counters to reset. What waits in the look-back shows it by its numbers."""
        with self.lock:
            if stream.kind is not Kind.FRAMES:
                return
            if self.foreground is not None:
                self.foreground.intake.reset(stream, reset)
            elif self._rule(stream).idle is Idle.KEEP and not self._waiting.has(stream):
                self.background.reset(stream, reset)

    def run_for_file(self, stream: Stream, item: FileItem, *others: FileItem) -> LiveRun | None:
        """The run that a finished file belongs to, which waits for it until ``adopting.leave()``; None: ignored.

        It belongs to a run when it was written or first seen in its span, and to none of another project than its path names. ``others``
        go where it goes; the run waits for each of them. Waits for the disk where a run must begin first: call it in a worker thread.

        Raises:
            EdgeAgentError: the daemon stops.
            DiskError: the disk let no run begin.
        """
        with self.lock:
            self._seen(stream, 1 + len(others), item.t_arrival)
        while True:
            with self.lock:
                if self._shut:
                    raise EdgeAgentError("The agent is stopping", try_="the file is taken at the next start", code="STOPPING")
                found = next((live for live in self._runs() if _covers(live, item)), None)
                if found is None and self._rule(stream).idle is Idle.IGNORE:
                    self._ignore(stream, 1 + len(others))
                    return None
                if found is None:
                    day, found = self.background.file_run(item.project)
                if found is not None:
                    self._tell_other_project(item)
                    for _ in (item, *others):
                        found.adopting.enter()
                    return found
            self.background.begin(day)

    def _tell_other_project(self, item: FileItem) -> None:
        """Once a session and project: perhaps the vendor's program still saves to the folder of somebody else."""
        live = self.foreground
        if not item.project or live is None or item.project == live.entry.run.project:
            return
        told = (live.entry.run.run_id, item.project)
        if told != self._told_other_project:
            self._told_other_project = told
            log.warning(
                "%s: %s lies in the folder of project %s while run %s of project %s is open; it goes to %s, where its folder says",
                self.name, item.name, item.project, live.entry.run.name, live.entry.run.project, item.project,
                extra={"code": "PATH_OTHER_PROJECT"},
            )  # fmt: skip

    def take_ignored(self) -> dict[str, int]:
        """What was ignored since the last call, per stream."""
        with self.lock:
            counted, self.ignored = self.ignored, {}
            return counted

    def _runs(self) -> list[LiveRun]:
        """The runs that still take data, the open one first."""
        return [*([self.foreground] if self.foreground is not None else []), *self.ending]

    def _route(self, stream: Stream, frame: Frame, waited: bool) -> bool:
        for live in self._runs():
            if live.holds(frame.t_source, frame.t_arrival):
                return live.intake.frame(stream, frame, waited=waited)
        if self._waits(stream):
            self._waiting.add(stream, frame)
            return True
        if self._rule(stream).idle is Idle.KEEP:
            return self.background.frame(stream, frame, waited=waited)
        self._ignore(stream, 1)
        return True

    def _rule(self, stream: Stream) -> Rule:
        return self.rules.get(stream.instrument, Rule(Idle.IGNORE if stream.kind is Kind.FRAMES else Idle.KEEP))

    def _patience(self, stream: Stream) -> float:
        rule = self._rule(stream)
        return max(self.look_back, rule.ring if rule.idle is Idle.RING else 0.0)

    def _waits(self, stream: Stream) -> bool:
        return self.look_back > 0 or self._rule(stream).idle is Idle.RING

    def _idle(self, stream: Stream, item: Block | Frame | Gap) -> bool:
        """The idle rule; whether it is known where the item belongs."""
        if self._rule(stream).idle is not Idle.KEEP:
            self._ignore(stream, events(item) if isinstance(item, Block) else int(isinstance(item, Frame)))
        elif isinstance(item, Frame):
            self.background.frame(stream, item, late=True)
        elif isinstance(item, Gap):
            self.background.gap(stream, item)
        elif events(item) or self.background.begun():
            return self.background.rows(stream, item)
        return True

    def _ignore(self, stream: Stream, n: int) -> None:
        if n:
            self.ignored[stream.key] = self.ignored.get(stream.key, 0) + n

    def _seen(self, stream: Stream, n: int, t_arrival: int) -> None:
        count = self.arrivals.get(stream.key, (0.0, 0))[1]
        self.arrivals[stream.key] = (t_arrival / 1e9, count + n)


def _covers(live: LiveRun, item: FileItem) -> bool:
    if item.project not in ("", live.entry.run.project):
        return False
    first, last = min(item.mtime_ns, item.t_arrival), item.t_arrival
    return last >= live.begin_ns() and (live.end_ns is None or first <= live.end_ns)
