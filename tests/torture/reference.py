"""A short life of an agent that does everything once, and the judge of what another life after it delivers; see `traced`.

It starts on what an earlier crash left and recovers it, goes on with that run: frames that fill a segment and begin the next, rows that
fill a chunk, a vendor's file; ends it and makes its papers; everything is delivered into a folder and freed in the spool. What the agent
sends and what it is told to be durable is said line by line, so that the truth survives its end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.deliver.backoff import Backoff
from edge_agent.deliver.engine import Engine
from edge_agent.deliver.folder import FolderTarget
from edge_agent.enrolment import Identity
from edge_agent.model import FileItem, ItemKind, Kind, Label, OutboxItem, Receipt, Stream
from edge_agent.provenance.policy import Decision
from edge_agent.record.series import Limits
from edge_agent.segment.run import verify_run
from edge_agent.segment.verify import verify_segment
from edge_agent.storage import DISK
from tests.runs.conftest import House
from tests.torture.power import Found, contents
from tests.torture.power_truth import CAMERA, TAG, RealClock, block, frame

SHARE = "share"
VENDOR = Stream("vendor", "files", Kind.FILES)
SMALL = Limits(size=7_000, min_age=0.0)
"""Three frames a segment."""
VENDOR_BYTES = bytes(range(256)) * 5
Say = Callable[..., None]


@dataclass
class Agent:
    """A house with a folder as its target, over ``folder/spool`` and ``folder/share``."""

    folder: Path
    identity: Identity

    async def open(self) -> House:
        """Start: recovery, the runs that go on, delivery."""
        (self.folder / SHARE).mkdir(exist_ok=True)
        self.house = House(self.folder / "spool", self.identity, DISK, RealClock(), targets=(SHARE,))
        await self.house.open("bl")
        self.house.keeper.frame_limits = SMALL
        target = FolderTarget(SHARE, self.folder / SHARE)
        wake = self.house.witnessing.wake
        queue, backoff = self.house.spool.outbox, Backoff(0.01, 0.05)
        self.engine = Engine(queue, [target], _open_to_all, backoff=backoff, proved=lambda item, receipt: wake.set())
        self.house.keeper.kick = self.engine.wake
        await self.engine.start()
        return self.house

    async def deliver(self) -> None:
        """Wait until every run is done and nothing waits; then free what is landed."""
        house = self.house
        await house.until(lambda: not house.keeper.book.entries() and not _waiting(house))
        await asyncio.to_thread(house.spool.retention.release, _freed)

    async def close(self) -> None:
        """A clean stop."""
        await self.house.desk.shutdown()
        await self.engine.stop()
        await self.house.stop()


def _waiting(house: House) -> int:
    return sum(backlog.waiting for backlog in house.spool.outbox.backlog())


def _open_to_all(label: Label, kind: ItemKind, target: str) -> Decision:
    return Decision(True, "")


def _freed(item: OutboxItem, receipts: tuple[Receipt, ...]) -> None:
    """The agent log is told of what is freed by the daemon; here nobody asks."""


async def crash(folder: Path, identity: Identity, say: Say) -> None:
    """The earlier life: ends as SIGKILL ends it, while frames and rows are under way."""
    agent = Agent(folder, identity)
    house = await agent.open()
    house.desk.start("bl", project="p")
    _frames(house, 1, 4, say)
    _rows(house, 0, 10, say)
    await house.durable(CAMERA, 4)
    await house.durable(TAG, 10)
    say("durable", 4, 10)
    _frames(house, 5, 1, say)
    _rows(house, 10, 3, say)
    os.kill(os.getpid(), signal.SIGKILL)


async def live(folder: Path, identity: Identity, say: Say) -> None:
    """The life whose calls fail."""
    agent = Agent(folder, identity)
    house = await agent.open()
    before = house.totals(TAG.key) - 13
    say("begun")
    _frames(house, 6, 2, say)
    _rows(house, 13, 1, say)
    await _durable(house, 7, 14, before, say)
    await _file(house, folder, say)
    _frames(house, 8, 3, say)
    _rows(house, 14, 300, say)
    await _durable(house, 10, 314, before, say)
    await house.desk.stop("bl")
    await agent.deliver()
    say("delivered")
    await agent.close()
    say("ended")


def _frames(house: House, first: int, n: int, say: Say) -> None:
    say("frames", first + n - 1)
    for number in range(first, first + n):
        house.groups["bl"].offer(CAMERA, frame(number))


def _rows(house: House, first: int, n: int, say: Say) -> None:
    say("rows", first + n)
    house.groups["bl"].take(TAG, block(first, n))


async def _durable(house: House, frames: int, rows: int, before: int, say: Say) -> None:
    """``before``: how many rows of the earlier life did not survive it, as a negative number; frames are counted by their gaps."""
    await house.durable(CAMERA, frames)
    await house.durable(TAG, rows + before)
    say("durable", frames, rows)


async def _file(house: House, folder: Path, say: Say) -> None:
    """A vendor's file, as its adapter hands it over."""
    path = folder / "vendor.dat"
    path.write_bytes(VENDOR_BYTES)
    item = FileItem(path, path.name, len(VENDOR_BYTES), path.stat().st_mtime_ns, time.time_ns())
    run = house.groups["bl"].run_for_file(VENDOR, item)
    assert run is not None
    while True:
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(house.keeper.adopt, run, VENDOR, item, lambda: loop.call_soon_threadsafe(done.set))
        except OSError:
            run.adopting.enter()
            continue
        await done.wait()
        break
    say("file")


def judge(folder: Path, identity: Identity, said: list[list[str]]) -> list[str]:
    """What is wrong after another life without a fault: what was durable is delivered, as it was sent, and what is missing is declared."""
    try:
        problems = asyncio.run(_another_life(folder, identity))
    except Exception as error:
        return [f"the agent does not go on: {type(error).__name__}: {error}"]
    found, files = Found(), {}
    for run in sorted((folder / SHARE / "p" / "bl").glob("*/*")):
        reason = verify_run(run, None, judge=verify_segment).reason
        if reason != "signed by an unknown key":
            problems.append(f"run {run.name}: {reason}")
        for path in sorted(run.glob("*.h5")) or sorted(run.glob("*.nxs")):
            found.add(contents(path))
        files |= {path.name: path.read_bytes() for path in run.glob("files/*/*")}
    return problems + found.problems + _compare(found, files, said)


async def _another_life(folder: Path, identity: Identity) -> list[str]:
    agent = Agent(folder, identity)
    house = await agent.open()
    problems = [entry.why for entry in house.spool.quarantine.entries()] + house.recovered.damaged
    if house.groups["bl"].foreground is not None:
        await house.desk.stop("bl")
    await agent.deliver()
    problems += [f"{key}: the ledger is off by {t.discrepancy}" for key, t in house.keeper.totals().items() if t.discrepancy]
    await agent.close()
    return problems


def _compare(found: Found, files: dict[str, bytes], said: list[list[str]]) -> list[str]:
    """The truth of the instruments against what landed."""
    frames, rows, vendor = set(range(1, 5)), set(range(10)), False
    sent = {"frames": 5, "rows": 13}
    for what, *numbers in said:
        if what in sent:
            sent[what] = int(numbers[0])
        elif what == "durable":
            frames |= set(range(6, int(numbers[0]) + 1))
            rows |= set(range(13, int(numbers[1])))
        elif what == "file":
            vendor = True
    problems = [f"frame {n} was durable and is lost" for n in sorted(frames - set(found.frames))]
    problems += [f"frame {n} has other bytes" for n, same in found.frames.items() if not same]
    problems += [f"frame {n} was never sent" for n in sorted(set(found.frames) - set(range(1, sent["frames"] + 1)))]
    missing = set(range(1, sent["frames"] + 1)) - set(found.frames) - found.accounted
    inside = {n for n in missing if n < max(found.frames, default=0)}
    problems += [f"frame {n} is missing and no gap says so" for n in sorted(missing if CAMERA.key not in found.open_ends else inside)]
    have = sorted(value * 2 for value in found.values)
    problems += [f"row {n} was durable and is lost" for n in sorted(rows - set(have))]
    problems += ["a row is there twice"] if len(have) != len(set(have)) else []
    problems += ["a row was never sent"] if set(have) - set(range(sent["rows"])) else []
    if len(have) < sent["rows"] and TAG.key not in found.open_ends:
        problems.append(f"{sent['rows'] - len(have)} rows are missing and no gap says so")
    if files and files != {"vendor.dat": VENDOR_BYTES}:
        problems.append(f"vendor files: {[(name, len(data)) for name, data in files.items()]}")
    if vendor and not files:
        problems.append("the vendor's file was durable and is lost")
    return problems
