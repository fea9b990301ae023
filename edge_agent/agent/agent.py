"""The daemon: one configuration becomes spool, recorder, runs, adapters and targets, started in order and stopped in the reverse order.

Start: spool, identity and session, agent log, recovery, targets, runs, adapters. Stop: adapters, runs (segments close, papers are
signed), targets, recorder. A stop takes at most
10 s; what is not sent by then waits in the spool for the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial

from edge_agent import __version__
from edge_agent.adapter import Adapter
from edge_agent.agent.crates import Describer
from edge_agent.agent.identity import Identity, load_identity
from edge_agent.agent.sink import AgentSink, InstrumentState
from edge_agent.agent.status import InstrumentStatus, RunStatus, Status, StreamStatus, TargetStatus
from edge_agent.agent.supervisor import supervise
from edge_agent.agent.targets import build_targets, destinations
from edge_agent.agent.triggers import follow
from edge_agent.config.adapters import adapter_class
from edge_agent.config.models import Config, Instrument
from edge_agent.deliver.engine import Engine
from edge_agent.deliver.target import Witnesses
from edge_agent.model import Label, OutboxItem, Receipt
from edge_agent.provenance.policy import PolicyGate, stricter
from edge_agent.record.agent_log import AgentLog
from edge_agent.record.recorder import Recorder
from edge_agent.record.session import new_session
from edge_agent.runs.book import RunEntry
from edge_agent.runs.desk import Desk, GroupPlan
from edge_agent.runs.group import Group, Idle, Rule
from edge_agent.runs.keeper import Keeper, Routes, describe
from edge_agent.runs.papers import Papers
from edge_agent.runs.witness import Witnessing
from edge_agent.seal.leaf import Boot, SpoolFree
from edge_agent.spool.disk import DiskGuard, DiskLimits, DiskReport, DiskState
from edge_agent.spool.ledger import StreamTotals
from edge_agent.spool.spool import Spool
from edge_agent.storage import DISK, Storage

log = logging.getLogger(__name__)

FREE_EVERY = 2.0
NO_TOTALS = StreamTotals(0, 0, 0, 0, 0, 0, 0, 0, 0)


class Agent:
    """One running daemon. Lives on one event loop."""

    def __init__(self, config: Config, *, storage: Storage = DISK) -> None:
        """Keep the configuration; nothing is opened yet."""
        self.config = config
        self.storage = storage
        self.started = time.time()
        self.recovered = ""
        self.disk: DiskReport | None = None
        self.instruments = {name: InstrumentState(name, i.adapter) for name, i in config.instruments.items()}
        self._tasks: list[asyncio.Task[None]] = []
        self._adapters: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open everything and begin to capture.

        Raises:
            DiskError: the spool cannot be opened, or another agent has it.
            IntegrityError: the spool belongs to another identity.
            ConfigError: something that the configuration names does not exist.
        """
        config = self.config
        self.spool = await asyncio.to_thread(Spool, config.spool.dir)
        self.identity: Identity = await asyncio.to_thread(load_identity, config)
        session = new_session(self.identity.agent_id, self.identity.key, self.identity.certificates, time.time_ns())
        self.agent_log = await asyncio.to_thread(AgentLog, self.spool.folder / "agent.log", session, self.storage)
        self.agent_log.append(Boot(session.agent_id, session.boot_id, __version__, time.time_ns()))
        self.recorder = Recorder()
        self.describer = Describer(config, self.instruments)
        self.keeper = Keeper(
            config.site, config.zone, self.spool, self.storage, session, self.recorder, self.agent_log,
            routes=self._routes, record=self.describer.record, kick=lambda: self.engine.wake(),
        )  # fmt: skip
        targets = build_targets(config, self.identity, session)
        self.engine = Engine(self.spool.outbox, list(targets.values()), PolicyGate(destinations(config)), proved=self._proved)
        papers = Papers(self.keeper, self.describer.record, self.describer.crate, self.describer.preview)
        witnesses = {name: target for name, target in targets.items() if isinstance(target, Witnesses)}
        self.witnessing = Witnessing(self.keeper, papers, witnesses, lambda: self.identity.receipt_certificates)
        self.desk = Desk(self.keeper, papers, self.witnessing, self._plans())
        self.desk.facts = {name: state.facts for name, state in self.instruments.items()}
        self.desk.groups = self._groups()
        await self._recover()
        await self.engine.start()
        self.engine.wake()
        limits = await asyncio.to_thread(self._limits)
        guard = DiskGuard(self.spool.folder, limits)
        self.disk = await asyncio.to_thread(guard.poll)
        self._tasks = [
            asyncio.create_task(guard.watch(self._disk_seen), name="disk"),
            asyncio.create_task(self.desk.tick_forever(), name="desk"),
            asyncio.create_task(self.witnessing.run(), name="witness"),
            asyncio.create_task(self._free_forever(), name="free"),
        ]
        for task in self._tasks:
            task.add_done_callback(_report)
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
        await _cancel(self._adapters)
        await self.desk.shutdown()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.witnessing.round(), 2.0)
        await _cancel(self._tasks)
        await self.engine.stop()
        await asyncio.to_thread(self.recorder.stop)
        self.agent_log.close()
        self.spool.close()

    def status(self) -> Status:
        """What the daemon knows of itself now."""
        totals = self.spool.ledger.totals(self.keeper.open_counts())
        backlog = {b.target: b for b in self.spool.outbox.backlog()}
        targets = []
        for lane in self.engine.status():
            waits = backlog.get(lane.target)
            numbers = (0, 0, 0, 0) if waits is None else (waits.waiting, waits.parked, waits.quarantined, waits.bytes)
            targets.append(TargetStatus(lane.target, lane.state, *numbers, lane.last_error, self.witnessing.errors.get(lane.target, "")))
        latencies = sorted(self.recorder.latencies)
        disk = self.disk
        return Status(
            self.config.site, __version__, self.identity.agent_id.hex(), self.identity.enrolled, self.started, self.recovered,
            DiskState.OK.value if disk is None else disk.state.value, 0 if disk is None else disk.free,
            None if disk is None else disk.seconds_left,
            latencies[int(len(latencies) * 0.99)] if latencies else None,
            tuple(self._instrument_status(name, totals) for name in self.instruments),
            tuple(_run_status(entry) for entry in self.keeper.book.entries()),
            tuple(_run_status(entry) for entry in self.keeper.book.past()),
            tuple(targets),
        )  # fmt: skip

    async def _recover(self) -> None:
        found, entries = await asyncio.to_thread(self.keeper.recover)
        self.recovered = describe(found)
        if found.segments or found.damaged:
            log.warning("after an interruption: %s", self.recovered, extra={"code": "RECOVERED"})
        await self.desk.resume(entries)

    def _start_adapters(self) -> None:
        for name, instrument in self.config.instruments.items():
            state = self.instruments[name]
            group = self.desk.groups[self.config.group_of(name)]
            sink = AgentSink(state, group, self.keeper, self._disk_state, instrument.codec, lambda: None)
            self._adapters.append(asyncio.create_task(supervise(_maker(name, instrument), sink, state), name=f"instrument {name}"))
        for group_name, member in self._triggered().items():
            condition = self.config.instruments[member].run_while
            assert condition is not None  # noqa: S101 - by _triggered
            work = follow(group_name, condition, self.config.instruments[member], self.desk)
            self._adapters.append(asyncio.create_task(work, name=f"trigger {group_name}"))
        for task in self._adapters:
            task.add_done_callback(_report)

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
            groups[name] = Group(name, rules, partial(self.desk.background, name), look_back)
        return groups

    def _plans(self) -> dict[str, GroupPlan]:
        plans = {}
        for name in dict.fromkeys(self.config.group_of(i) for i in self.config.instruments):
            members = self._members(name)
            labels = [Label(self.config.instruments[m].access or self.config.access, self.config.instruments[m].allowed) for m in members]
            label = labels[0]
            for other in labels[1:]:
                label = stricter(label, other)
            plans[name] = GroupPlan(self.config.project_of(members[0]), label, self.config.instruments[members[0]].title)
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

    async def _free_forever(self) -> None:
        """Free what every required target holds; runs that are open or wait for their papers keep their files."""
        while True:
            await asyncio.sleep(FREE_EVERY)
            hold = [entry.run.run_id for entry in self.keeper.book.entries()]
            await asyncio.to_thread(
                self.spool.retention.release, self._before_free, pressure=self._disk_state() is not DiskState.OK, hold=hold
            )

    def _before_free(self, item: OutboxItem, receipts: Sequence[Receipt]) -> None:
        proofs = tuple(hashlib.sha256(r.cose or r.sha256).digest() for r in receipts)
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


def _run_status(entry: RunEntry) -> RunStatus:
    run = entry.run
    return RunStatus(run.name, run.folder, run.group, run.project, entry.stage.value, entry.kind, entry.outcome)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=5.0)


def _report(task: asyncio.Task[None]) -> None:
    """A part of the daemon that ends by itself is a bug that must be seen."""
    if not task.cancelled() and task.exception() is not None:
        log.error("%s ended: %s", task.get_name(), task.exception(), exc_info=task.exception(), extra={"code": "AGENT_PART"})


def status_json(status: Status) -> str:
    """The status as JSON, with the losses as people see them beside the numbers."""
    value = asdict(status)
    for instrument, known in zip(value["instruments"], status.instruments, strict=True):
        for stream, source in zip(instrument["streams"], known.streams, strict=True):
            stream["totals"]["lost_text"] = source.totals.lost_text
            stream["totals"]["discrepancy"] = source.totals.discrepancy
    return json.dumps(value)
