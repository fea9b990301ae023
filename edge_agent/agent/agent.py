"""The daemon: one configuration becomes spool, recorder, runs, adapters and targets, started in order and stopped in the reverse order.

Start: spool, identity and session, agent log, recovery, targets, runs, adapters. Stop: adapters, runs (segments close, papers are
signed), targets, recorder. A stop takes at most
10 s; what is not sent by then waits in the spool for the next start.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent import __version__
from edge_agent.adapter import Adapter
from edge_agent.agent import diary, places
from edge_agent.agent.clock import watch_clock
from edge_agent.agent.crates import Describer
from edge_agent.agent.giving_up import give_up
from edge_agent.agent.identity import Credentials, load_credentials, renew_forever
from edge_agent.agent.labels import Labels, destinations
from edge_agent.agent.live import Broadcast
from edge_agent.agent.projects import build_routing
from edge_agent.agent.sessions import Sessions
from edge_agent.agent.silent_disk import silent, watch_syncs
from edge_agent.agent.sink import AgentSink, InstrumentState
from edge_agent.agent.status import InstrumentStatus, RunStatus, Status, StreamStatus, TargetStatus, TimestampStatus
from edge_agent.agent.supervisor import keep_going, supervise
from edge_agent.agent.targets import build_targets, sending_hours, witnesses
from edge_agent.agent.triggers import follow, follow_project
from edge_agent.config.adapters import adapter_class
from edge_agent.config.models import Config, Instrument
from edge_agent.deliver.engine import Engine
from edge_agent.errors import EdgeAgentError
from edge_agent.model import OutboxItem, Priority, Receipt
from edge_agent.provenance.policy import Destination, DestinationKind, ObjectKind, PolicyGate, may_send
from edge_agent.record.agent_log import AgentLog
from edge_agent.record.recorder import Recorder
from edge_agent.record.room import fitting
from edge_agent.record.session import new_session
from edge_agent.record.timekeeping import Timekeeper
from edge_agent.runs.amend import Amending
from edge_agent.runs.book import RunEntry, Stage
from edge_agent.runs.claim import Claiming
from edge_agent.runs.desk import SESSION_GRACE, Desk, GroupPlan
from edge_agent.runs.group import Group, Idle, Rule
from edge_agent.runs.keeper import Keeper, Routes
from edge_agent.runs.papers import Papers
from edge_agent.runs.publish import Publishing
from edge_agent.runs.routing import UNCLAIMED
from edge_agent.runs.salvage import Salvage
from edge_agent.runs.witness import Witnessing
from edge_agent.seal.leaf import SpoolFree
from edge_agent.seal.log_leaf import Quarantine as QuarantineLeaf
from edge_agent.segment.roots import load_roots
from edge_agent.segment.tags import can_share
from edge_agent.spool.disk import DiskGuard, DiskLimits, DiskReport, DiskState, Space
from edge_agent.spool.ledger import StreamTotals
from edge_agent.spool.outbox_reads import Backlog
from edge_agent.spool.quarantine import GivenUp, Quarantined
from edge_agent.spool.spool import Spool
from edge_agent.storage import DISK, Storage

if TYPE_CHECKING:
    from edge_agent.runs.stamp import Stamping

log = logging.getLogger(__name__)

FREE_EVERY = 2.0
STATUS_PATIENCE = 3.0
NO_TOTALS = StreamTotals(0, 0, 0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Kept:
    totals: Mapping[str, StreamTotals]
    backlog: Mapping[str, Backlog]
    entries: Sequence[RunEntry]
    past: Sequence[RunEntry]
    unstamped: int
    projects: Mapping[str, str]
    """Of each run the project whose space gets it: a claim may have changed it."""


class Agent:
    """One running daemon. Lives on one event loop."""

    def __init__(self, config: Config, *, storage: Storage = DISK, space: Callable[[Path], Space] | None = None) -> None:
        """Keep the configuration; nothing is opened yet.

        Args:
            config: the whole configuration.
            storage: the file system of the spool.
            space: reads how full the spool's disk is; default: asks the system.
        """
        self.config = config
        self.storage = storage
        self._space = space
        self.started = time.time()
        self.recovered = ""
        self.stopping = False
        self.disk: DiskReport | None = None
        self.instruments = {name: InstrumentState(name, i.adapter) for name, i in config.instruments.items()}
        self._tasks: list[asyncio.Task[None]] = []
        self._adapters: list[asyncio.Task[None]] = []
        self._asking: asyncio.Task[_Kept] | None = None
        self._last: _Kept | None = None

    async def start(self) -> None:
        """Open everything and begin to capture.

        Raises:
            DiskError: the spool cannot be opened, or another agent has it.
            IntegrityError: the spool belongs to another identity.
            ConfigError: something that the configuration names does not exist.
        """
        config = self.config
        self.spool = await asyncio.to_thread(Spool, config.spool.dir, self.storage)
        self.credentials: Credentials = await asyncio.to_thread(load_credentials, config)
        session = new_session(self.credentials.agent_id, self.credentials.key, self.credentials.certificates, time.time_ns())
        self.timekeeper = Timekeeper()
        await asyncio.to_thread(self.timekeeper.refresh)
        path = self.spool.folder / "agent.log"
        self.agent_log = await asyncio.to_thread(partial(AgentLog, path, session, self.storage, clock=self.timekeeper))
        await asyncio.to_thread(diary.begin, self.agent_log, session, __version__, config)
        self.recorder = Recorder(room=fitting())
        self.describer = Describer(config, self.instruments, self.timekeeper)
        self.keeper = Keeper(
            config.site, config.zone, self.spool, self.storage, session, self.recorder, self.agent_log,
            routes=self._routes, record=self.describer.record, kick=lambda: self.engine.wake(), disk=self._disk_state,
            own_streams=config.own_streams, known_rows=self._known_rows, clock=self.timekeeper,
        )  # fmt: skip
        self.sessions = Sessions(self.credentials, self.keeper)
        targets = build_targets(config, self.credentials, lambda: self.keeper.session, self.spool.state, self.keeper.book.published)
        gate, labels = PolicyGate(destinations(config)), Labels(config)
        plans = self._plans(labels)
        self.engine = Engine(
            self.spool.outbox, list(targets.values()), gate, proved=self._proved, refused=self._refused, hours=sending_hours(config)
        )
        papers = Papers(self.keeper, self.describer.record, self.describer.crate, self.describer.preview)
        self.stamping = self._stamping(papers)
        self.broadcast = Broadcast(config)
        self.amending = Amending(papers)
        self.publishing = Publishing(self.amending, {name: project.encrypt_to for name, project in config.projects.items()})
        asked = witnesses(targets, plans, self._routes, gate)
        self.witnessing = Witnessing(self.keeper, papers, asked, lambda: self.credentials.receipt_certificates)
        self.desk = Desk(self.keeper, papers, self.witnessing, plans)
        self.desk.labels = labels.label
        self.desk.routing, schedule = build_routing(config)
        if schedule is not None:
            await asyncio.to_thread(schedule.look)
        self.claiming = Claiming(self.amending, self.desk.routing)
        self.desk.facts = {name: state.facts for name, state in self.instruments.items()}
        self.desk.groups = self._groups()
        self.desk.graces = {name: self._grace(name) for name in self.desk.groups}
        await self._recover()
        await asyncio.to_thread(places.look, config, self.spool)
        await self.engine.start()
        self.engine.wake()
        limits = await asyncio.to_thread(self._limits)
        guard = DiskGuard(self.spool.folder, limits, space=self._space, storage=self.storage)
        self.disk = await asyncio.to_thread(guard.poll)
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "disk": lambda: guard.watch(self._disk_seen),
            "desk": self.desk.tick_forever,
            "witness": self.witnessing.run,
            "free": self._free_forever,
            "syncs": lambda: watch_syncs(self.recorder.sync_waits),
            "clock": lambda: watch_clock(self.timekeeper, self.agent_log.append),
            "sessions": self.sessions.run,
            "renewal": lambda: renew_forever(config.keys_dir),
        }
        parts |= self.broadcast.parts()
        if schedule is not None:
            parts["schedule"] = schedule.watch
        if self.stamping is not None:
            parts["timestamp"] = self.stamping.run
        self._tasks = [asyncio.create_task(keep_going(name, work), name=name) for name, work in parts.items()]
        self._start_adapters()
        log.info(
            "edge-agent %s at %s: %d instruments, %d targets; %s",
            __version__,
            config.site,
            len(self.instruments),
            len(targets),
            self.recovered,
        )

    async def stop(self) -> None:
        """Stop capturing, close the runs, give the targets a moment, let go of everything."""
        self.stopping = True
        await _cancel(self._adapters, 2.5)
        await self.desk.shutdown()
        await _cancel(self._tasks, 0.5)
        try:
            async with asyncio.timeout(1.0):
                await self.witnessing.round()
        except (EdgeAgentError, OSError, sqlite3.Error) as error:
            log.info("not witnessed before the stop: %s", error)
        await self.engine.stop()
        await asyncio.to_thread(self.recorder.stop, 0.5)
        await asyncio.to_thread(self.keeper.settling.close)
        self.agent_log.close()
        self.spool.close()
        log.info("edge-agent stopped")

    async def status(self) -> Status:
        """What the daemon knows of itself now."""
        lanes, disk, latencies = self.engine.status(), self.disk, sorted(self.recorder.latencies)
        kept = await self._kept_lately()
        targets = []
        for lane in lanes:
            waits = kept.backlog.get(lane.target)
            numbers = (0, 0, 0, 0) if waits is None else (waits.waiting, waits.parked, waits.quarantined, waits.bytes)
            targets.append(TargetStatus(lane.target, lane.state, *numbers, lane.last_error, self.witnessing.errors.get(lane.target, "")))
        for waits in kept.backlog.values():
            if waits.target not in self.config.targets and waits.bytes:
                why = places.GONE.format(waits.target)
                numbers = (waits.waiting, waits.parked, waits.quarantined, waits.bytes)
                targets.append(TargetStatus(waits.target, "gone", *numbers, why, ""))
        return Status(
            self.config.site, __version__, self.credentials.agent_id.hex(), self.credentials.enrolled, self.started, self.recovered,
            DiskState.OK.value if disk is None else disk.state.value, 0 if disk is None else disk.free,
            None if disk is None else disk.seconds_left,
            latencies[int(len(latencies) * 0.99)] if latencies else None,
            tuple(self._instrument_status(name, kept.totals) for name in self.instruments),
            tuple(_run_status(entry, kept.projects) for entry in kept.entries),
            tuple(_run_status(entry, kept.projects) for entry in kept.past),
            tuple(targets),
            None if self.stamping is None else TimestampStatus(kept.unstamped, self.stamping.error),
            silent(self.recorder.sync_waits()),
        )  # fmt: skip

    async def _kept_lately(self) -> _Kept:
        """What the database says; what it said before, when the disk lets it wait for long: a status must come just then."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(asyncio.to_thread(self._kept), name="status")
        await asyncio.wait({self._asking}, timeout=None if self._last is None else STATUS_PATIENCE)
        if self._last is None or self._asking.done():
            self._last = await self._asking
        return self._last

    def _kept(self) -> _Kept:
        """What the spool's database says; worker thread. The book first: what a run that is done sends last is then in the backlog."""
        entries, past = self.keeper.book.entries(), self.keeper.book.past()
        unstamped = 0 if self.stamping is None else self.stamping.waiting()
        projects = {entry.run.name: self.keeper.book.project(entry.run) for entry in (*entries, *past)}
        return _Kept(self.keeper.totals(), {b.target: b for b in self.spool.outbox.backlog()}, entries, past, unstamped, projects)

    async def _recover(self) -> None:
        found, entries = await asyncio.to_thread(Salvage(self.keeper).recover)
        self.recovered = found.sentence()
        if found.segments or found.damaged:
            log.warning("after an interruption: %s", self.recovered, extra={"code": "RECOVERED"})
        await self.desk.resume(entries)

    def _start_adapters(self) -> None:
        watch = self.broadcast.values if self.config.live else None
        for name, instrument in self.config.instruments.items():
            state = self.instruments[name]
            group = self.desk.groups[self.config.group_of(name)]
            sink = AgentSink(state, group, self.keeper, instrument.codec, Priority(instrument.priority), watch)
            self._adapters.append(asyncio.create_task(supervise(_maker(name, instrument), sink, state), name=f"instrument {name}"))
        for group_name, member in self._triggered().items():
            condition = self.config.instruments[member].run_while
            assert condition is not None  # noqa: S101 - by _triggered
            work = partial(follow, group_name, condition, self.config.instruments[member], self.desk)
            name = f"trigger of {group_name}"
            self._adapters.append(asyncio.create_task(keep_going(name, work), name=name))

        for group_name in self.desk.groups:
            for member in self._members(group_name):
                uri = self.config.instruments[member].project_pv
                if uri is not None:
                    told = partial(follow_project, group_name, uri, self.config.instruments[member], self.desk)
                    name = f"project of {group_name}"
                    self._adapters.append(asyncio.create_task(keep_going(name, told), name=name))

    def _stamping(self, papers: Papers) -> Stamping | None:
        """What has runs time-stamped, if that is configured."""
        table = self.config.timestamp
        if table is None:
            return None
        # Only now, because they need a library that nothing else needs.
        from edge_agent.deliver.tsa import Tsa
        from edge_agent.runs.stamp import Stamping

        destination = Destination("timestamp", DestinationKind.TIMESTAMP, facility=table.facility)
        roots = [] if table.root is None else load_roots(Path(table.root))
        stamping = Stamping(papers, Tsa(table.tsa), lambda label: may_send(label, destination, ObjectKind.DIGEST), roots)
        papers.signed = stamping.signed
        return stamping

    def _triggered(self) -> dict[str, str]:
        """Group to the member whose ``run_while`` opens its runs."""
        return {self.config.group_of(name): name for name, i in self.config.instruments.items() if i.run_while is not None}

    def _members(self, group: str) -> list[str]:
        return [name for name in self.config.instruments if self.config.group_of(name) == group]

    def _groups(self) -> dict[str, Group]:
        triggered = self._triggered()
        groups: dict[str, Group] = {}
        for name in dict.fromkeys(self.config.group_of(i) for i in self.config.instruments):
            members = self._members(name)
            rules = {m: Rule(Idle(idle.mode), idle.seconds) for m in members if (idle := self.config.instruments[m].idle) is not None}
            look_back = max(self.config.instruments[m].look_back for m in members) if name in triggered else 0.0
            groups[name] = Group(name, rules, self.desk, look_back)
        return groups

    def _known_rows(self, group: str) -> int:
        """Row streams of single values that the instruments of a group have announced so far."""
        return sum(can_share(stream) for member in self._members(group) for stream in list(self.instruments[member].streams.values()))

    def _grace(self, group: str) -> float:
        """How long a session's data may be on its way: what is read at once, and files until they have settled."""
        return SESSION_GRACE + max(float(getattr(self.config.instruments[m].settings, "settle", 0.0)) for m in self._members(group))

    def _plans(self, labels: Labels) -> dict[str, GroupPlan]:
        plans = {}
        for name in dict.fromkeys(self.config.group_of(i) for i in self.config.instruments):
            members = self._members(name)
            project = self.config.project_of(members[0])
            plans[name] = GroupPlan(project, labels.label(name, project, time.time_ns()), self.config.instruments[members[0]].title)
        return plans

    def _routes(self, group: str) -> Routes:
        names = dict.fromkeys(target for member in self._members(group) for target in self.config.targets_of(member))
        return Routes(tuple(names), frozenset(name for name in names if self.config.targets[name].required))

    def _limits(self) -> DiskLimits:
        spool = self.config.spool
        limits = DiskLimits.for_disk(shutil.disk_usage(self.spool.folder).total, spool.keep_free, spool.max_size)
        soft = limits.soft if spool.soft is None else spool.soft
        return replace(limits, soft=soft, hard=min(soft, limits.hard if spool.hard is None else spool.hard))

    def _disk_state(self) -> DiskState:
        return DiskState.OK if self.disk is None else self.disk.state

    def _disk_seen(self, report: DiskReport) -> None:
        if self.disk is not None and report.state is not self.disk.state:
            level = logging.INFO if report.state is DiskState.OK else logging.WARNING
            log.log(level, "the disk is %s: %.1f GB free", report.state.value, report.free / 1e9, extra={"code": "DISK_STATE"})
        self.disk = report

    def _proved(self, item: OutboxItem, receipt: Receipt) -> None:
        self.witnessing.wake.set()
        self.broadcast.landed(item, receipt)

    def _refused(self, item: OutboxItem, target: str, why: str) -> None:
        self.agent_log.append(QuarantineLeaf(item.item_id, item.run_id, f"{target}: {why}", time.time_ns()))

    async def _free_forever(self) -> None:
        """Free what every required target holds. Runs that are not complete keep their files, for the preview and the papers.

        When the disk fills, only runs whose papers are being made keep them: a run of a day must not fill a disk with what is
        already landed. Runs of no project stay for a while, to be claimed, while there is room.
        """
        while True:
            await asyncio.sleep(FREE_EVERY)
            pressure = self._disk_state() is not DiskState.OK
            entries = await asyncio.to_thread(self.keeper.book.entries)
            hold = [entry.run.run_id for entry in entries if entry.stage is Stage.CLOSING or not pressure]
            if not pressure:
                since = time.time_ns() - round(self.config.spool.keep_unclaimed * 1e9)
                hold += await asyncio.to_thread(self.spool.outbox.waiting_for_a_claim, UNCLAIMED, since)
            freed = await asyncio.to_thread(self.spool.retention.release, self._before_free, pressure=pressure, hold=hold)
            if freed.items:
                await asyncio.to_thread(self.keeper.book.sweep, self.spool.folder / "runs")

    def drop(self, name: str, reason: str) -> Quarantined | GivenUp:
        """See `edge_agent.agent.giving_up`."""
        return give_up(self.config, self.spool, self.agent_log, name, reason)

    def _before_free(self, item: OutboxItem, receipts: Sequence[Receipt]) -> None:
        proofs = tuple(hashlib.sha256(r.statement).digest() for r in receipts)
        self.agent_log.append(SpoolFree(item.item_id, proofs, time.time_ns()))

    def _instrument_status(self, name: str, totals: Mapping[str, StreamTotals]) -> InstrumentStatus:
        state = self.instruments[name]
        group = self.desk.groups[self.config.group_of(name)]
        streams = []
        for key, stream in state.streams.items():
            last, items = group.arrivals.get(key, (0.0, 0))
            streams.append(StreamStatus(key, stream.source_uri, stream.kind.value, totals.get(key, NO_TOTALS), items, last))
        connections = {source: (c.up, c.detail) for source, c in state.connections.items()}
        return InstrumentStatus(name, state.adapter, group.name, connections, state.error, tuple(streams))


def _maker(name: str, instrument: Instrument) -> Callable[[], Adapter]:
    chosen = adapter_class(instrument.adapter)

    def make() -> Adapter:
        return chosen(name, instrument.settings)

    return make


def _run_status(entry: RunEntry, projects: Mapping[str, str]) -> RunStatus:
    run, project = entry.run, projects[entry.run.name]
    folder = f"{project}/{run.folder.partition('/')[2]}"
    return RunStatus(run.name, folder, run.group, project, entry.stage.value, entry.kind, entry.outcome)


async def _cancel(tasks: Sequence[asyncio.Task[None]], within: float) -> None:
    """Cancel and wait, in s; what does not end in time is left behind."""
    for task in tasks:
        task.cancel()
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=within)
        for task in late:
            log.warning("%s did not stop in time and is left behind", task.get_name(), extra={"code": "AGENT_PART"})


def status_json(status: Status) -> str:
    """The status as JSON, with the losses as people see them beside the numbers."""
    value = asdict(status)
    for instrument, known in zip(value["instruments"], status.instruments, strict=True):
        for stream, source in zip(instrument["streams"], known.streams, strict=True):
            stream["totals"]["lost_text"] = source.totals.lost_text
            stream["totals"]["discrepancy"] = source.totals.discrepancy
    return json.dumps(value)
