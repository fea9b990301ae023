"""The desk where runs begin and end: sessions by people, triggers by a value, days by the calendar. Lives on the event loop.

A run that ends stays open for a grace time, so that data which is still on its way arrives in it; then its segments close and its
papers are made in a worker thread. One group never waits for another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any

from edge_agent.errors import UsageError
from edge_agent.model import Label, Outcome, RunContext
from edge_agent.runs.book import RunEntry, Stage
from edge_agent.runs.group import Group
from edge_agent.runs.keeper import Keeper, NewRun
from edge_agent.runs.live import LiveRun
from edge_agent.runs.papers import Papers
from edge_agent.runs.witness import Witnessing
from edge_agent.spool.ledger import Counts

log = logging.getLogger(__name__)

SESSION_GRACE = 1.0
TICK = 0.25
IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What the configuration says of a group's runs."""

    project: str
    label: Label
    title: str = ""


@dataclass(slots=True)
class Desk:
    """See the module."""

    keeper: Keeper
    papers: Papers
    witnessing: Witnessing
    plans: Mapping[str, GroupPlan]
    groups: dict[str, Group] = field(default_factory=dict)
    _daily: dict[str, tuple[date, LiveRun]] = field(default_factory=dict)
    _ignored: dict[str, int] = field(default_factory=dict)
    _ending: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    facts: dict[str, dict[str, str | int | float]] = field(default_factory=dict)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def background(self, group: str) -> LiveRun:
        """The daily run of a group; begins today's where there is none. From any thread, under the group's lock."""
        today = self._date()
        known = self._daily.get(group)
        if known is not None and known[0] == today:
            return known[1]
        plan = self.plans[group]
        live = self.keeper.open(NewRun(group, "daily", plan.project, plan.label, self.keeper.now_ns(), plan.title))
        if known is not None:
            self._retire(group, known[1])
        self._daily[group] = (today, live)
        return live

    def start(
        self, group: str, *, project: str, user: str = "", sample: str = "", title: str = "", started_ns: int | None = None
    ) -> RunContext:
        """Begin a session.

        Raises:
            UsageError: no such group, or it has a run open.
        """
        plan = self._plan(group)
        open_run = self.groups[group].foreground
        if open_run is not None:
            raise UsageError(
                f"{group} has run {open_run.entry.run.name} open", why=f"for project {open_run.entry.run.project}",
                try_=f"edge-agent session stop --group {group}", code="RUN_OPEN",
            )  # fmt: skip
        began = self.keeper.now_ns() if started_ns is None else started_ns
        live = self.keeper.open(NewRun(group, "session", project, plan.label, began, title or plan.title, user, sample))
        self.groups[group].open(live)
        log.info("run %s begins: %s, project %s", live.entry.run.name, group, project)
        return live.entry.run

    async def stop(self, group: str, outcome: Outcome = Outcome.COMPLETE) -> RunContext:
        """End the open run of a group; returns when its papers are signed and in the outbox.

        Raises:
            UsageError: no such group, or no run is open.
        """
        self._plan(group)
        live = self.groups[group].foreground
        if live is None:
            raise UsageError(f"{group} has no run open", try_=f"edge-agent session start --group {group} --project P", code="RUN_NONE")
        self.groups[group].end(self.keeper.now_ns())
        await asyncio.sleep(SESSION_GRACE)
        self.groups[group].close()
        await self._finish(live, outcome)
        return live.entry.run

    def trigger(self, group: str, on: bool, t_ns: int, what: str) -> None:
        """A trigger changed at ``t_ns`` (source time, UTC ns)."""
        target, plan = self.groups[group], self.plans[group]
        live = target.foreground
        if on and live is None:
            run = NewRun(group, "trigger", plan.project, plan.label, t_ns, plan.title, trigger=what)
            target.open(self.keeper.open(run))
        elif on and live is not None and live.end_ns is not None and group in self._ending:
            # It closed and opened again within the grace time: the next run begins when the first one is closed.
            self._background(self._reopen(group, t_ns, what))
        elif not on and live is not None and live.entry.kind == "trigger" and live.end_ns is None:
            target.end(t_ns)
            self._ending[group] = asyncio.create_task(self._end_later(group, live))

    async def _end_later(self, group: str, live: LiveRun) -> None:
        await asyncio.sleep(self.groups[group].look_back)
        self.groups[group].close()
        self._ending.pop(group, None)
        await self._finish(live, Outcome.COMPLETE)

    async def _reopen(self, group: str, t_ns: int, what: str) -> None:
        ending = self._ending.get(group)
        if ending is not None:
            await asyncio.shield(ending)
        self.trigger(group, True, t_ns, what)

    async def resume(self, entries: list[RunEntry]) -> None:
        """Go on where a crash or a stop left off."""
        for entry in entries:
            name = entry.run.group
            if entry.stage is Stage.OPEN and name in self.groups and (entry.kind != "daily" or self._is_today(entry)):
                live = self.keeper.resume(entry)
                if entry.kind == "daily":
                    self._daily[name] = (self._date(), live)
                else:
                    self.groups[name].open(live)
                log.info("run %s goes on", entry.run.name)
            elif entry.stage is Stage.OPEN:
                await self._finish(self.keeper.resume(entry), Outcome.COMPLETE if entry.kind == "daily" else Outcome.ABORTED)
            elif entry.stage is Stage.CLOSING:
                await asyncio.to_thread(self.papers.make, entry, None)
        self.witnessing.wake.set()

    async def tick_forever(self) -> None:
        """Look-back, days and the ledger of ignored items, a few times a second."""
        while True:
            await asyncio.sleep(TICK)
            for group in self.groups.values():
                for channel, rows in group.expire():
                    await channel.put(rows)
                self._count_ignored(group)
            for name, (day, live) in list(self._daily.items()):
                if day != self._date():
                    del self._daily[name]
                    self._retire(name, live)

    async def shutdown(self) -> None:
        """Close every run cleanly; triggers and sessions that were open are marked aborted."""
        for task in list(self._ending.values()):
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for group in self.groups.values():
            live = group.close()
            if live is not None:
                await self._finish(live, Outcome.ABORTED)
        for name, (_, live) in list(self._daily.items()):
            self.groups[name].forget(live)
            await self._finish(live, Outcome.COMPLETE)
        self._daily.clear()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _finish(self, live: LiveRun, outcome: Outcome) -> None:
        facts = {instrument: dict(values) for instrument, values in self.facts.items() if values}
        live.entry = replace(
            live.entry, stage=Stage.CLOSING, outcome=outcome.value, ended_ns=live.end_ns or self.keeper.now_ns(), facts=facts
        )
        await asyncio.to_thread(self.keeper.book.put, live.entry)
        await asyncio.wrap_future(live.recording.close(outcome.value))
        live.entry = await asyncio.to_thread(self.papers.make, live.entry, live)
        self.keeper.forget(live)
        log.info("run %s is closed: %s", live.entry.run.name, outcome.value)
        self.witnessing.wake.set()

    def _retire(self, group: str, live: LiveRun) -> None:
        """Close yesterday's run; may be called from an adapter's thread."""
        self.groups[group].forget(live)
        self.loop.call_soon_threadsafe(self._background, self._finish(live, Outcome.COMPLETE))

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count_ignored(self, group: Group) -> None:
        new = group.take_ignored()
        for key, n in new.items():
            self._ignored[key] = self._ignored.get(key, 0) + n
        if new:
            self.keeper.spool.ledger.tally(
                f"{IGNORED}-{self.keeper.session.boot_id.hex()}", {key: Counts(ignored=n) for key, n in self._ignored.items()}
            )

    def _plan(self, group: str) -> GroupPlan:
        if group not in self.plans:
            raise UsageError(f"there is no group {group!r}", why=f"groups: {', '.join(sorted(self.plans))}", code="GROUP_UNKNOWN")
        return self.plans[group]

    def _date(self) -> date:
        return datetime.fromtimestamp(self.keeper.now_ns() / 1e9, UTC).astimezone(self.keeper.timezone).date()

    def _is_today(self, entry: RunEntry) -> bool:
        return datetime.fromtimestamp(entry.run.started_ns / 1e9, UTC).astimezone(self.keeper.timezone).date() == self._date()
