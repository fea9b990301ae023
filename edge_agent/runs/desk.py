"""The desk where runs begin and end: sessions by people, triggers by a value, days by the calendar. Lives on the event loop.

A run that ends takes what belongs to it for a grace time, so that data which is still on its way arrives in it; then its segments
close and its papers are made in a worker thread. The next run of the group may begin meanwhile; one group never waits for another.
Papers that cannot be made (a full disk) are tried again, here and at the next start; a run is never given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

from edge_agent.errors import DiskError, EdgeAgentError, UsageError
from edge_agent.model import NAME, Access, Label, Outcome, RunContext
from edge_agent.runs.book import RunEntry, Stage
from edge_agent.runs.day import Day
from edge_agent.runs.group import Group
from edge_agent.runs.keeper import Keeper, NewRun
from edge_agent.runs.live import LiveRun
from edge_agent.runs.papers import Interrupted, Papers
from edge_agent.runs.routing import PATH, Configured, Route, Routing
from edge_agent.runs.salvage import Salvage
from edge_agent.runs.texts import check_text
from edge_agent.runs.witness import Witnessing
from edge_agent.spool.ledger import Counts

log = logging.getLogger(__name__)

SESSION_GRACE = 1.0
TICK = 0.25
IGNORED = "ignored"
RETRY_FIRST, RETRY_MOST = 1.0, 60.0
SHUTDOWN = 4.5
"""Seconds for closing all runs when the daemon stops; papers that are not made by then are made by the next start."""
SETTLE, DRAIN = 1.5, 2.5
"""Of these: until runs have begun for what waits for one, and until what waits for room has found it."""
STOP_WAIT = 90.0
"""Seconds after which somebody who ended a session is told that it goes on without him."""


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What the configuration says of a group's runs."""

    project: str
    label: Label
    title: str = ""


@dataclass(slots=True)
class Desk:
    """See the module. ``graces``: seconds by group that a session's data may take to arrive."""

    keeper: Keeper
    papers: Papers
    witnessing: Witnessing
    plans: Mapping[str, GroupPlan]
    groups: dict[str, Group] = field(default_factory=dict)
    graces: Mapping[str, float] = field(default_factory=dict)
    facts: dict[str, dict[str, str | int | float]] = field(default_factory=dict)
    routing: Routing = field(init=False)
    labels: Callable[[str, str, int, Access | None], Label] | None = None
    """The label of a group's run for a project that begins then (UTC ns), with the access that a person chose; None: the plan's."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _beginner: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "runs"))
    """Begins the runs of the day. A thread for nothing else: workers that copy large files must not keep a camera waiting."""
    _ignored: dict[str, int] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _drain_until: float = math.inf
    """By the loop's clock: what waits for room is declared as missing then, because the daemon stops."""

    def __post_init__(self) -> None:
        """Without rules of a daemon the plans say the project."""
        self.routing = Routing((Configured({name: plan.project for name, plan in self.plans.items()}),))

    def today(self, group: str, project: str = "") -> Day:
        """See `Days`."""
        now = self.keeper.now_ns()
        return Day(self._date(now), self.routing.decide(group, now, project, PATH), now)

    def begin_run(self, group: str, day: Day) -> LiveRun:
        """See `Days`."""
        return self.keeper.open(self._new(group, "daily", day.route, day.t_ns))

    def soon(self, work: Callable[[], None]) -> None:
        """See `Days`."""
        self._beginner.submit(work)

    def start(
        self, group: str, *, project: str, user: str = "", role: str = "", sample: str = "", title: str = "",
        started_ns: int | None = None, access: Access | None = None,
    ) -> RunContext:  # fmt: skip
        """Begin a session; ``access`` only makes its label stricter.

        Raises:
            UsageError: no such group, it has a run open, no project, a text that cannot be kept, or the agent is stopping.
        """
        plan = self._plan(group)
        _check_project(project)
        for what, text in (("user", user), ("role", role), ("sample", sample), ("title", title)):
            check_text(what, text)
        open_run = self.groups[group].foreground
        if open_run is not None:
            raise UsageError(
                f"{group} has run {open_run.entry.run.name} open", why=f"for project {open_run.entry.run.project}",
                try_=f"edge-agent session stop --group {group}", code="RUN_OPEN",
            )  # fmt: skip
        began = self.keeper.now_ns() if started_ns is None else started_ns
        route = self.routing.decide(group, began, project)
        if route.refused:
            raise UsageError(
                f"Project {project} takes no new data.", why=route.refused, code="PROJECT_CLOSED",
                try_="name another project, or have its owner open it in the configuration",
            )  # fmt: skip
        run = self._new(group, "session", route, began, access)
        live = self.keeper.open(replace(run, title=title or plan.title, user=user, sample=sample, role=role))
        self.groups[group].open(live)
        log.info("run %s begins: %s, project %s", live.entry.run.name, group, project)
        return live.entry.run

    async def stop(self, group: str, outcome: Outcome = Outcome.COMPLETE) -> RunContext:
        """End the open run of a group; returns when its papers are signed and in the outbox.

        Raises:
            UsageError: no such group, or no run is open.
            EdgeAgentError: the run is closed and safe, but its papers cannot be made now; they are tried again.
        """
        self._plan(group)
        live = self.groups[group].end(self.keeper.now_ns())
        if live is None:
            try_ = f"edge-agent session start --group {group} --project P"
            raise UsageError(f"{group} has no run open", try_=try_, code="RUN_NONE")
        told: asyncio.Future[None] = self.loop.create_future()
        self._begin(self._end(live, outcome, self.graces.get(group, SESSION_GRACE), told))
        try:
            async with asyncio.timeout(STOP_WAIT):
                await asyncio.shield(told)
        except TimeoutError as error:
            told.cancel()
            raise _safe(live.entry.run.name, f"its segments are not closed after {STOP_WAIT:g} s; does the disk take nothing?") from error
        return live.entry.run

    def assign(self, group: str, project: str, address: str = "") -> bool:
        """Runs of a group that begin from now on without a session belong to this project; False: it is no name, nothing changes."""
        if not NAME.fullmatch(project):
            return False
        if self.routing.values.say(group, project, address):
            log.info("%s: runs without a session belong to project %s from now on", group, project)
        return True

    def trigger(self, group: str, on: bool, t_ns: int, what: str) -> None:
        """A trigger changed at ``t_ns`` (source time, UTC ns). While a session is open it changes nothing."""
        target = self.groups[group]
        live = target.foreground
        if self._stopping.is_set():
            return
        if on and live is None:
            run = self._new(group, "trigger", self.routing.decide(group, t_ns), t_ns)
            target.open(self.keeper.open(replace(run, trigger=what)))
        elif not on and live is not None and live.entry.kind == "trigger":
            target.end(t_ns)
            self._begin(self._end(live, Outcome.COMPLETE, target.look_back))

    async def resume(self, entries: list[RunEntry]) -> None:
        """Go on where a crash or a stop left off. A run that cannot be finished now is said, and stays for the next start."""
        for entry in entries:
            try:
                await self._resume_patiently(entry)
            except (EdgeAgentError, OSError, ValueError, LookupError) as error:
                log.error("run %s cannot be finished now: %s", entry.run.name, error, extra={"code": "RUN_STUCK"})
        self.witnessing.wake.set()

    async def _resume_patiently(self, entry: RunEntry) -> None:
        """A disk that refuses for a moment must not cost an open run what comes next: it would go elsewhere, or be ignored."""
        for pause in (RETRY_FIRST, 2 * RETRY_FIRST):
            try:
                return await self._resume(entry)
            except DiskError as error:
                log.warning("run %s does not go on yet: %s", entry.run.name, error, extra={"code": error.code})
                await self._pause(pause)
        return await self._resume(entry)

    async def _resume(self, entry: RunEntry) -> None:
        name = entry.run.group
        if entry.stage is Stage.OPEN and name in self.groups and (entry.kind != "daily" or self._is_today(entry)):
            live = self.keeper.resume(entry)
            if entry.kind == "daily":
                self.groups[name].go_on(live, self._date(self.keeper.now_ns()))
            else:
                self.groups[name].open(live)
            log.info("run %s goes on", entry.run.name)
        elif entry.stage is Stage.OPEN:
            await self._finish(self.keeper.resume(entry), Outcome.COMPLETE if entry.kind == "daily" else Outcome.ABORTED)
        elif entry.stage is Stage.CLOSING:
            await asyncio.to_thread(self.papers.make, entry, None)

    async def tick_forever(self) -> None:
        """Look-back, days, files that wait for the database and the ledger of ignored items, a few times a second."""
        while True:
            await asyncio.sleep(TICK)
            self.keeper.look()
            for group in self.groups.values():
                group.expire()
                for live in group.over():
                    self._begin(self._end(live, Outcome.COMPLETE, 0.0))
                await asyncio.to_thread(self._count_ignored, group)
            await asyncio.to_thread(self.keeper.settling.settle)
            # A disk that refuses is felt and told by the recorder; this is done again with the next tick.
            with contextlib.suppress(DiskError):
                if await asyncio.to_thread(self.keeper.logbook.open_segments):
                    self.witnessing.wake.set()

    async def shutdown(self) -> None:
        """Close every run cleanly, within `SHUTDOWN` s; triggers and sessions that were open are marked aborted."""
        began = self.loop.time()
        self._stopping.set()
        self._drain_until = began + DRAIN
        for group in self.groups.values():
            group.shut()
            live = group.end(self.keeper.now_ns())
            if live is not None:
                self._begin(self._end(live, Outcome.ABORTED, 0.0))
        waiting = [group.background for group in self.groups.values() if group.background.awaited]
        settling = [self.loop.run_in_executor(self._beginner, background.settle) for background in waiting]
        if settling:
            await asyncio.wait(settling, timeout=SETTLE)
        self._beginner.shutdown(wait=False, cancel_futures=True)
        for group in self.groups.values():
            group.give_up()
            for live in group.over(everything=True):
                self._begin(self._end(live, Outcome.COMPLETE, 0.0))
            await asyncio.to_thread(self._count_ignored, group)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=max(0.0, began + SHUTDOWN - self.loop.time()))
            if late:
                log.warning("%d runs could not be finished in time; the next start does it", len(late), extra={"code": "RUN_LATE"})
                self.papers.stopping.set()
                for task in late:
                    task.cancel()
                await asyncio.wait(late, timeout=1.0)

    async def _end(self, live: LiveRun, outcome: Outcome, grace: float, told: asyncio.Future[None] | None = None) -> None:
        group = self.groups[live.entry.run.group]
        await self._pause(grace)
        while live.intake.busy and self.loop.time() < self._drain_until:
            group.expire()
            await asyncio.sleep(0.02)
        group.close(live)
        await self._finish(live, outcome, told)

    async def _finish(self, live: LiveRun, outcome: Outcome, told: asyncio.Future[None] | None = None) -> None:
        """Close the segments, then make the papers, again and again if need be. ``told`` hears of success or the first failure."""
        facts = {instrument: dict(values) for instrument, values in self.facts.items() if values}
        live.entry = replace(
            live.entry, stage=Stage.CLOSING, outcome=outcome.value, ended_ns=live.end_ns or self.keeper.now_ns(), facts=facts
        )
        await self._until_done(live, partial(self.keeper.book.put, live.entry), told)
        await self._files_are_in(live)
        try:
            await asyncio.wrap_future(live.recording.close(outcome.value))
        except (EdgeAgentError, OSError, ValueError, RuntimeError) as error:
            # Its journals stand: `Salvage.finish` makes segments of them before the papers are made.
            log.error("run %s: a segment could not be closed: %s", live.entry.run.name, error, extra={"code": "SEGMENT_OPEN"})
        await self._until_done(live, partial(self._make, live), told)
        self.keeper.forget(live)
        log.info("run %s is closed: %s", live.entry.run.name, outcome.value)
        if told is not None and not told.done():
            told.set_result(None)
        self.witnessing.wake.set()

    def _make(self, live: LiveRun) -> None:
        self.keeper.settling.settle()
        live.opened.clear()
        Salvage(self.keeper).finish(live.entry)
        live.entry = self.papers.make(live.entry, live)

    async def _until_done(self, live: LiveRun, work: Callable[[], None], told: asyncio.Future[None] | None) -> None:
        """Do ``work`` in a worker thread until it succeeds.

        Raises:
            Interrupted: the daemon stops.
        """
        name, pause = live.entry.run.name, RETRY_FIRST
        while True:
            try:
                await asyncio.to_thread(work)
                return
            except Interrupted:
                raise
            except Exception as error:
                # Whatever it is, the run is safe as it stands, and giving up would need a restart to try again.
                shown = error if isinstance(error, EdgeAgentError) else f"{type(error).__name__}: {error}"
                level = logging.WARNING if isinstance(error, DiskError) else logging.ERROR
                if pause == RETRY_FIRST:
                    log.log(level, "run %s cannot be finished now, it is tried again: %s", name, shown, extra={"code": "RUN_STUCK"})
                if told is not None and not told.done():
                    told.set_exception(_safe(name, shown))
                if self._stopping.is_set():
                    raise Interrupted("The agent stops", why=str(shown)) from error
                await self._pause(pause)
                pause = min(2 * pause, RETRY_MOST)

    async def _files_are_in(self, live: LiveRun) -> None:
        """Wait for vendor files that are being copied into the run; a stop does not wait for a long copy, which is begun again then."""
        copied = asyncio.Event()
        live.adopting.close(lambda: self._call(copied.set))
        waiting = [asyncio.create_task(event.wait()) for event in (copied, self._stopping)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SESSION_GRACE):
                    await copied.wait()
        finally:
            for task in waiting:
                task.cancel()

    async def _pause(self, seconds: float) -> None:
        """Sleep; a stop ends it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _call(self, what: Callable[[], object]) -> None:
        """Call on the loop, from any thread; a loop that is closed does nothing any more."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(what)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Interrupted):
            log.error("ending a run failed; the next start finishes it", exc_info=error, extra={"code": "RUN_STUCK"})

    def _count_ignored(self, group: Group) -> None:
        new = group.take_ignored()
        for key, n in new.items():
            self._ignored[key] = self._ignored.get(key, 0) + n
        if new:
            key = f"{IGNORED}-{self.keeper.session.boot_id.hex()}"
            self.keeper.spool.ledger.tally(key, {stream: Counts(ignored=n) for stream, n in self._ignored.items()})

    def _new(self, group: str, kind: str, route: Route, t_ns: int, access: Access | None = None) -> NewRun:
        plan = self.plans[group]
        if route.refused:
            log.warning("%s: a run for project %s begins, which takes no new data (%s); it is kept in quarantine", group, route.project,
                        route.refused, extra={"code": "PROJECT_CLOSED"})  # fmt: skip
        label = plan.label if self.labels is None else self.labels(group, route.project, t_ns, access)
        return NewRun(
            group, kind, route.project, label, t_ns, plan.title, rule=route.rule, rule_source=route.source, refused=route.refused
        )

    def _plan(self, group: str) -> GroupPlan:
        if self._stopping.is_set():
            raise UsageError("the agent is stopping", why="runs that are open are being closed", try_="start it again", code="STOPPING")
        if group not in self.plans:
            raise UsageError(f"there is no group {group!r}", why=f"groups: {', '.join(sorted(self.plans))}", code="GROUP_UNKNOWN")
        return self.plans[group]

    def _date(self, t_ns: int) -> date:
        return datetime.fromtimestamp(t_ns / 1e9, UTC).astimezone(self.keeper.timezone).date()

    def _is_today(self, entry: RunEntry) -> bool:
        return self._date(entry.run.started_ns) == self._date(self.keeper.now_ns())


def _check_project(project: str) -> None:
    if not NAME.fullmatch(project):
        what = "a session needs a project" if not project else f"{project[:80]!r} is no project name"
        why = "1 to 63 of A-Z a-z 0-9 _ . -, beginning with a letter or digit: it is a folder in the project space"
        raise UsageError(what, why=why, try_="edge-agent session start --project P", code="PROJECT_NAME")


def _safe(name: str, error: object) -> EdgeAgentError:
    return EdgeAgentError(
        f"Run {name} has ended and is safe here, but cannot be finished now.", why=str(error),
        try_="nothing is lost; it is tried again by itself, edge-agent status shows when it is done", code="RUN_STUCK",
    )  # fmt: skip
