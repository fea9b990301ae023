"""One run group: decides by time to which run each item belongs, and keeps a look-back so that no race loses data.

A group has at most one foreground run (a session or a trigger), runs that ended a moment ago and still take what belongs to them,
and one background run (daily, for what is kept between runs). An item goes to the run whose span holds its time (`LiveRun.holds`).
Otherwise its instrument's idle rule says: ``keep`` (background run), ``ignore`` (counted, not lost) or ``ring`` (kept in memory for
so long; a run that begins takes all of it).

Look-back: with a trigger, an item that no run holds waits `look_back` seconds before the idle rule applies, and a run that ended
stays as long, so the race between shutter and frame is decided by their times and not by who came first. Frames that arrive after
the shutter closed, but before the message says so, are in the run: nothing is held back while a run is open. Thread-safe:
everything may be called from any thread; what a method hands to the recorder it hands over before it returns.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from edge_agent.errors import DiskError, EdgeAgentError
from edge_agent.model import Block, Cause, FileItem, Frame, Gap, Kind, Reset, RunContext, Stream
from edge_agent.runs.live import LiveRun
from edge_agent.runs.look_back import LookBack
from edge_agent.runs.ranges import grown
from edge_agent.runs.rows import as_initial, events, initial_rows, is_usable, masked, take_rows

log = logging.getLogger(__name__)
WAITING_GAPS = 1000
RETRY = 1.0
"""Seconds for which nobody tries again to begin a background run that the disk refused."""
KEPT_WHOLE = 4096
"""Bytes of values up to which a block is kept for its last row."""


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
    """See the module. ``background`` gives the open background run, beginning one where there is none; it is called under ``lock``.

    Files may name their project: then it is called with that name and gives the run that the day has for it.
    """

    name: str
    rules: dict[str, Rule]
    background: Callable[..., LiveRun]
    look_back: float = 0.0
    foreground: LiveRun | None = None
    ending: list[LiveRun] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    arrivals: dict[str, tuple[float, int]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _known_background: LiveRun | None = None
    _waiting: LookBack = field(default_factory=LookBack)
    _last: dict[str, tuple[Stream, Block, int]] = field(default_factory=dict)
    """The last known value of each stream: a block and its row, not taken out of it before somebody asks."""
    _gaps: deque[tuple[Stream, Gap]] = field(default_factory=lambda: deque(maxlen=WAITING_GAPS))
    _refused: dict[str, list[tuple[Stream, Gap]]] = field(default_factory=dict)
    """What came while the disk let no background run begin; the next one says so."""
    _refusal: tuple[float, DiskError] | None = None
    _shut: bool = False
    _told_other_project: tuple[bytes, str] = (b"", "")

    def open(self, live: LiveRun) -> None:
        """Make ``live`` the foreground run: the last known value of each row stream first, then what waits and belongs to it."""
        with self.lock:
            self.foreground = live
            taken = self._waiting.take(live, lambda stream: self._rule(stream).idle is Idle.RING)
            self._give_last_known(live, {**self._last, **{key: (*last, 0) for key, last in self._waiting.last_rows().items()}})
            for stream, gap in self._waiting.squeezed(live):
                live.intake.gap(stream, gap)
            for waiting in taken:
                if isinstance(waiting.item, Frame):
                    live.intake.frame_later(waiting.stream, waiting.item)
                elif isinstance(waiting.item, Block):
                    live.intake.rows(waiting.stream, waiting.item)
                    self._remember(waiting.stream, waiting.item, len(waiting.item) - 1)
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
            if self._known_background is live:
                self._known_background = None

    def shut(self) -> None:
        """The daemon stops: nothing that comes from now on is taken."""
        with self.lock:
            self._shut = True

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
            try:
                taken = self._route(stream, frame, waited)
            except DiskError as error:
                taken = False
                if not waited:
                    self._refuse(stream, Gap(Cause.DISK, frame.number, frame.number, 1, frame.t_arrival, frame.t_arrival, _why(error)))
            if taken or not waited:
                self._seen(stream, 1, frame.t_arrival)
            return taken

    def take(self, stream: Stream, block: Block) -> None:
        """Route rows and hand them over; the caller waited for room.

        Raises:
            ValueError: they are not what the stream says.
        """
        if not len(block):
            return
        if block.values.shape[1:] != stream.shape or (stream.counted and block.seq is None):
            found = f"{block.values.shape[1:]}, {'no ' if block.seq is None else ''}seq"
            raise ValueError(f"{stream.key}: values of shape {found}; the stream says {stream.shape}, counted: {stream.counted}")
        with self.lock:
            if self._shut:
                return
            self._seen(stream, events(block), int(block.t_arrival[-1]))
            if self.foreground is not None and self.foreground.holds_all(block):
                self.foreground.intake.rows(stream, block)
                self._remember(stream, block, len(block) - 1)
                return
            left = np.ones(len(block), bool)
            initial = initial_rows(block)
            for live in self._runs():
                inside = left & live.inside(block)
                if live is self.foreground:
                    inside |= left & initial  # a last known value belongs to the open run, whatever its time
                if inside.any():
                    live.intake.rows(stream, masked(block, inside))
                    left &= ~inside
            if self.foreground is None and self._known_background is None:
                left &= ~initial  # alone it begins no run: it is remembered for the next one
            if left.any() and self._waits(stream):
                self._waiting.add(stream, masked(block, left))
            elif left.any():
                rest = masked(block, left)
                try:
                    self._idle_rows(stream, rest)
                except DiskError as error:
                    if n := events(rest):
                        self._refuse(stream, Gap(Cause.DISK, None, None, n, int(rest.t_arrival[0]), int(rest.t_arrival[-1]), _why(error)))
                left[:] = False
            settled = np.flatnonzero(~left)
            if settled.size:
                self._remember(stream, block, int(settled[-1]))

    def open_runs(self) -> list[RunContext]:
        """The runs that may take what comes now; none where that is not known before the look-back has passed."""
        with self.lock:
            if self.foreground is None and self.look_back:
                return []
            background = [] if self._known_background is None else [self._known_background]
            return [live.entry.run for live in (*self._runs(), *background)]

    def expire(self) -> None:
        """Apply the idle rule to what waited long enough, and go on with what waits for room. Called a few times a second."""
        with self.lock:
            due = self._waiting.overdue(self._patience)
            done = 0
            try:
                for waiting in due:
                    if isinstance(waiting.item, Frame):
                        self._idle_frame(waiting.stream, waiting.item)
                    elif isinstance(waiting.item, Block):
                        self._idle_rows(waiting.stream, waiting.item)
                        self._remember(waiting.stream, waiting.item, len(waiting.item) - 1)
                    else:
                        self._idle_gap(waiting.stream, waiting.item)
                    done += 1
            finally:
                self._waiting.restore(due[done:])
            for live in [*self._runs(), *([self._known_background] if self._known_background is not None else [])]:
                live.intake.drain()

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
                self._idle_gap(stream, gap)

    def reset(self, stream: Stream, reset: Reset) -> None:
        """A counter began again; rows have no counters to reset. What waits in the look-back shows it by its numbers."""
        with self.lock:
            live = self.foreground
            if live is None and self._rule(stream).idle is Idle.KEEP:
                live = self._known_background
            if live is not None and stream.kind is Kind.FRAMES:
                live.intake.reset(stream, reset)

    def run_for_file(self, stream: Stream, item: FileItem, *others: FileItem) -> LiveRun | None:
        """The run that a finished file belongs to, which waits for it until ``adopting.leave()``; None: ignored.

        It belongs to a run when it was written or first seen in its span, and to none of another project than its path names. ``others``
        go where it goes; the run waits for each of them.

        Raises:
            EdgeAgentError: the daemon stops.
        """
        with self.lock:
            if self._shut:
                raise EdgeAgentError("The agent is stopping", try_="the file is taken at the next start", code="STOPPING")
            self._seen(stream, 1 + len(others), item.t_arrival)
            found = next((live for live in self._runs() if _covers(live, item)), None)
            if found is None and self._rule(stream).idle is Idle.IGNORE:
                self._ignore(stream, 1 + len(others))
                return None
            if found is None:
                found = self.background(item.project) if item.project else self._background()
            self._tell_other_project(item)
            for _ in (item, *others):
                found.adopting.enter()
            return found

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

    def _background(self) -> LiveRun:
        """The background run; one that has just begun gets the last known values first.

        Raises:
            DiskError: the disk let none begin, now or a moment ago.
        """
        if self._refusal is not None and time.monotonic() < self._refusal[0]:
            raise self._refusal[1]
        try:
            live = self.background()
        except DiskError as error:
            if self._refusal is None:
                log.warning("%s: no run can begin, what comes is refused and declared: %s", self.name, error, extra={"code": error.code})
            self._refusal = time.monotonic() + RETRY, error
            raise
        self._refusal = None
        if live is not self._known_background:
            self._known_background = live
            self._give_last_known(live, self._last)
            gaps, self._gaps = self._gaps, deque(maxlen=WAITING_GAPS)
            for stream, gap in gaps:
                live.intake.gap(stream, gap)
            refused, self._refused = self._refused, {}
            for stream, gap in (each for ranges in refused.values() for each in ranges):
                live.intake.gap(stream, gap, refused=stream.kind is Kind.FRAMES)
        return live

    def _refuse(self, stream: Stream, gap: Gap) -> None:
        """Remember what came and had no run; a frame counter that begins again makes another range."""
        ranges = self._refused.setdefault(stream.key, [])
        longer = grown(ranges[-1][1], gap) if ranges else None
        if longer is None:
            ranges.append((stream, gap))
        else:
            ranges[-1] = stream, longer

    def _give_last_known(self, live: LiveRun, last: dict[str, tuple[Stream, Block, int]]) -> None:
        for stream, block, row in last.values():
            initial = as_initial(block, row)
            if initial is not None:
                live.intake.rows(stream, initial)

    def _remember(self, stream: Stream, block: Block, row: int) -> None:
        """The last known value, for the run that begins next; an unusable one means that nothing is known."""
        if block.values.nbytes > KEPT_WHOLE:
            # A large block would stay in memory for the sake of one row.
            block, row = take_rows(block, np.array([row])), 0
        if is_usable(block, row):
            self._last[stream.key] = (stream, block, row)
        else:
            self._last.pop(stream.key, None)

    def _route(self, stream: Stream, frame: Frame, waited: bool) -> bool:
        for live in self._runs():
            if live.holds(frame.t_source, frame.t_arrival):
                return live.intake.frame(stream, frame, waited=waited)
        if self._waits(stream):
            self._waiting.add(stream, frame)
            return True
        return self._idle_frame(stream, frame, waited=waited)

    def _rule(self, stream: Stream) -> Rule:
        return self.rules.get(stream.instrument, Rule(Idle.IGNORE if stream.kind is Kind.FRAMES else Idle.KEEP))

    def _patience(self, stream: Stream) -> float:
        rule = self._rule(stream)
        return max(self.look_back, rule.ring if rule.idle is Idle.RING else 0.0)

    def _waits(self, stream: Stream) -> bool:
        return self.look_back > 0 or self._rule(stream).idle is Idle.RING

    def _idle_frame(self, stream: Stream, frame: Frame, *, waited: bool = False) -> bool:
        if self._rule(stream).idle is Idle.KEEP:
            return self._background().intake.frame(stream, frame, waited=waited)
        self._ignore(stream, 1)
        return True

    def _idle_rows(self, stream: Stream, block: Block) -> None:
        if self._rule(stream).idle is Idle.KEEP:
            self._background().intake.rows(stream, block)
        else:
            self._ignore(stream, events(block))

    def _idle_gap(self, stream: Stream, gap: Gap) -> None:
        """A gap alone begins no run: it waits for the background run that the next data begins."""
        if self._rule(stream).idle is not Idle.KEEP:
            return
        if self._known_background is None:
            self._gaps.append((stream, gap))
        else:
            self._background().intake.gap(stream, gap)

    def _ignore(self, stream: Stream, n: int) -> None:
        if n:
            self.ignored[stream.key] = self.ignored.get(stream.key, 0) + n

    def _seen(self, stream: Stream, n: int, t_arrival: int) -> None:
        count = self.arrivals.get(stream.key, (0.0, 0))[1]
        self.arrivals[stream.key] = (t_arrival / 1e9, count + n)


def _why(error: DiskError) -> str:
    return f"no run could begin: {error.why}"


def _covers(live: LiveRun, item: FileItem) -> bool:
    if item.project not in ("", live.entry.run.project):
        return False
    first, last = min(item.mtime_ns, item.t_arrival), item.t_arrival
    return last >= live.begin_ns() and (live.end_ns is None or first <= live.end_ns)
