"""A house of real parts without a daemon: spool, recorder, agent log, keeper, papers and desk over a temporary folder."""

from __future__ import annotations

import asyncio
import datetime as dt
import zoneinfo
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.agent.supervisor import keep_going
from edge_agent.enrolment import Identity, open_identity
from edge_agent.model import NO_TIME, Block, Frame, Kind, Label, RunContext, Stream, Valid
from edge_agent.record.agent_log import AgentLog
from edge_agent.record.journal import LeafFrame, entries
from edge_agent.record.recorder import Recorder
from edge_agent.record.session import new_session
from edge_agent.runs.desk import Desk, GroupPlan
from edge_agent.runs.group import Group, Idle, Rule
from edge_agent.runs.keeper import Keeper, Routes
from edge_agent.runs.papers import Papers
from edge_agent.runs.salvage import Recovered, Salvage
from edge_agent.runs.witness import Witnessing
from edge_agent.seal.leaf import Leaf, parse
from edge_agent.segment import peek
from edge_agent.segment.layout import stream_group
from edge_agent.spool import DiskState, Spool
from edge_agent.storage import DISK, Storage

T0 = int(dt.datetime(2026, 11, 24, 3, 0, tzinfo=dt.UTC).timestamp()) * 10**9
"""Noon in Tokyo."""
MS = 1_000_000


@dataclass
class Clock:
    """The daemon's UTC clock; moves only when told. ``set_by``: how far somebody set it (ns); the boot clock knows nothing of that."""

    now: int = T0
    set_by: int = 0

    def __call__(self) -> int:
        return self.now + self.set_by

    def boot(self) -> int:
        return self.now


@dataclass
class House:
    """See the module. ``refuse`` makes the making of crates fail; ``disk`` is what the disk guard would say."""

    folder: Path
    identity: Identity
    storage: Storage
    clock: Clock
    disk: DiskState = DiskState.OK
    targets: tuple[str, ...] = ()
    refuse: Exception | None = None
    crates: int = 0
    groups: dict[str, Group] = field(default_factory=dict)
    segments: dict[int, list[Any]] = field(default_factory=dict)
    recovered: Recovered = field(default_factory=Recovered)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def open(
        self, *groups: str, rules: dict[str, Rule] | None = None, look_back: float = 0.0, witnesses: dict[str, Any] | None = None
    ) -> None:
        """Begin, as the daemon does: recovery, then the runs that go on."""
        self.spool = await asyncio.to_thread(Spool, self.folder)
        session = new_session(self.identity.agent_id, self.identity.key, (self.identity.certificate,), self.clock())
        self.agent_log = AgentLog(self.folder / "agent.log", session, self.storage)
        self.recorder = Recorder()
        self.keeper = Keeper(
            "BL05", zoneinfo.ZoneInfo("Asia/Tokyo"), self.spool, self.storage, session, self.recorder, self.agent_log,
            routes=lambda group: Routes(self.targets, frozenset(self.targets)), record=lambda entry: "{}", kick=lambda: None,
            now_ns=self.clock, boot_ns=self.clock.boot, disk=lambda: self.disk,
        )  # fmt: skip
        self._keep_segments()
        self.papers = papers = Papers(self.keeper, lambda entry, segments: "{}", self._crate, lambda entry, segments: None)
        self.witnessing = Witnessing(self.keeper, papers, witnesses or {}, lambda: ())
        plans = {name: GroupPlan("unclaimed", Label()) for name in groups}
        self.desk = Desk(self.keeper, papers, self.witnessing, plans)
        for name in groups:
            self.groups[name] = Group(name, rules or {}, self.desk, look_back)
        self.desk.groups = self.groups
        self.desk.graces = dict.fromkeys(groups, 0.05)
        self.recovered, entries = await asyncio.to_thread(Salvage(self.keeper).recover)
        await self.desk.resume(entries)
        parts = {"desk": self.desk.tick_forever, "witness": self.witnessing.run}
        self.tasks = [asyncio.create_task(keep_going(name, work)) for name, work in parts.items()]

    async def stop(self) -> None:
        """A clean stop."""
        await self._still()
        await self.desk.shutdown()
        await self._let_go()

    async def crash(self) -> None:
        """What SIGKILL leaves, in one process: nothing is closed; what was not committed is gone."""
        await self._still()
        for task in list(self.desk._tasks):
            task.cancel()
        self.recorder.submit(self.recorder._end)
        self.recorder._writer.join()
        for series in self.recorder._series:
            if series.segment is not None:
                with series.segment.committing:  # a commit that is under way ends first
                    series.segment.release()
                if series.segment._file is not None:
                    series.segment._file.abandon()
        self.recorder._series.clear()
        await self._let_go()

    async def _still(self) -> None:
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)
        self.tasks = []

    async def _let_go(self) -> None:
        await asyncio.to_thread(self.recorder.stop, 0.1)
        self.agent_log.close()
        self.spool.close()
        self.groups.clear()

    def _keep_segments(self) -> None:
        """The book forgets the segments of a run that is complete; the tests still want to look at them."""
        book, done = self.keeper.book, self.keeper.book.done

        def keep_and_done(entry: Any) -> None:
            self.segments[entry.run.run_no] = book.segments(entry.run, self.keeper.folder(entry.run))
            done(entry)

        book.done = keep_and_done  # type: ignore[method-assign]

    def closed_segments(self, run: RunContext) -> list[Any]:
        return self.keeper.book.segments(run, self.keeper.folder(run)) or self.segments.get(run.run_no, [])

    async def complete(self, run_no: int = 1) -> RunContext:
        """Wait until a run is complete."""
        await self.until(lambda: run_no in {entry.run.run_no for entry in self.keeper.book.past()})
        return next(run for run in self.runs() if run.run_no == run_no)

    def _crate(self, entry: Any, segments: Any, listed: Any) -> bytes:
        self.crates += 1
        if self.refuse is not None:
            raise self.refuse
        return f"{{{self.crates}}}".encode()

    async def durable(self, stream: Stream, n: int) -> None:
        """Wait until ``n`` items of a stream are durable, here or in the outbox."""
        await self.until(lambda: self.totals(stream.key) >= n)

    def totals(self, key: str) -> int:
        totals = self.keeper.totals()
        return totals[key].arrived if key in totals else 0

    async def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while not await asyncio.to_thread(condition):
                await asyncio.sleep(0.01)

    def column(self, run: RunContext, stream: Stream, name: str) -> list[Any]:
        """A column of a stream of a closed run, over all its segments."""
        found: list[Any] = []
        for closed in self.closed_segments(run):
            path = f"{stream_group(stream)}/{name}"
            if path in closed.shapes:
                found += peek.rows(closed.path, path).tolist()
        return found

    def gaps(self, run: RunContext, stream: Stream) -> list[Any]:
        """The GAP leaves of a stream of a closed run."""
        return [gap for closed in self.closed_segments(run) for gap in closed.gaps.get(stream.key, ())]

    def runs(self) -> list[RunContext]:
        """All runs, done or not, by number."""
        known = {e.run.run_no: e.run for e in (*self.keeper.book.entries(), *self.keeper.book.past(10**6))}
        return [known[number] for number in sorted(known)]

    def log(self, kind: type[Leaf]) -> list[Any]:
        """The leaves of one kind in the agent log."""
        data = (self.folder / "agent.log").read_bytes()
        return [leaf for entry, _ in entries(data) if isinstance(entry, LeafFrame) and isinstance(leaf := parse(entry.payload), kind)]


@pytest.fixture
async def new_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., House]]:
    """``new_house(storage=..., clock=...)``: a house over the one temporary folder, not open yet; a second one is a restart."""
    made: list[House] = []
    # How long a busy machine needs for papers proves nothing; a test about a stop in time sets it itself.
    for limit in ("SHUTDOWN", "SETTLE", "DRAIN"):
        monkeypatch.setattr(f"edge_agent.runs.desk.{limit}", 100.0)
    identity = open_identity(tmp_path / "keys")

    def make(**more: Any) -> House:
        more.setdefault("storage", DISK)
        more.setdefault("clock", Clock())
        house = House(tmp_path / "spool", identity, **more)
        made.append(house)
        return house

    yield make
    for house in made:
        if house.tasks:
            await house.stop()


@pytest.fixture
def camera() -> Stream:
    return Stream("camera", "image", Kind.FRAMES, "<u2", (4, 4), counted=True)


@pytest.fixture
def tag() -> Stream:
    return Stream("oven", "temperature", Kind.ROWS, "<f8", unit="K")


@pytest.fixture
def frame() -> Callable[..., Frame]:
    """``frame(7)``: frame number 7, dated 10 ms after number 6; keywords change it."""

    def make(number: int, **more: Any) -> Frame:
        t = more.pop("t", T0 + number * 10 * MS)
        return Frame(np.full((4, 4), number, "<u2"), number, t, more.pop("arrival", t if t != NO_TIME else T0), **more)

    return make


@pytest.fixture
def rows() -> Callable[..., Block]:
    """``rows([1.0, 2.0], [t1, t2])``; keywords change it."""

    def make(values: list[float], times: list[int], valid: list[Valid] | None = None, arrival: list[int] | None = None) -> Block:
        t = np.array(times, "<i8")
        flags = None if valid is None else np.array([int(v) for v in valid], "|u1")
        return Block(np.array(values, "<f8"), t, t if arrival is None else np.array(arrival, "<i8"), valid=flags)

    return make


@pytest.fixture
def rule() -> Callable[..., Rule]:
    """``rule("ring", 30)``."""
    return lambda idle, ring=0.0: Rule(Idle(idle), ring)


@pytest.fixture
def t0() -> int:
    return T0
