"""Start-up on a full spool: ``python -m benchmarks.startup [--segments N] [--runs N] [--cold] [--json]``.

Makes a spool as an agent leaves it whose target was away for long: so many signed runs, each with its closed segments in the outbox, the
book, its mirror and the agent log. Then starts the daemon on it, in a process of its own, and says how long that took, beside the time
that the bare reading of the agent log and of the names in the run folders takes. The segments are tiny: a start must not look into them.
With ``--cold`` once more after the page cache of the whole machine was dropped, as after a reboot (needs root).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.harness import Impossible, answer, machine, peak_mb
from edge_agent.agent.agent import Agent
from edge_agent.config.loading import load
from edge_agent.model import ItemKind, Label, OutboxItem, RunContext
from edge_agent.record.agent_log import AgentLog
from edge_agent.record.segment_writer import Closed
from edge_agent.record.session import new_session
from edge_agent.runs.book import Book, RunEntry, Stage
from edge_agent.runs.mirror import Mirror
from edge_agent.seal import cose
from edge_agent.seal.clock import Clock
from edge_agent.seal.head import Head, State, head_hash
from edge_agent.seal.leaf import RunClose, RunOpen, SegmentClose
from edge_agent.spool import Spool
from edge_agent.spool.ledger import Counts
from edge_agent.storage import Disk

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
T0 = 1_795_000_000_000_000_000
CONFIG = """\
site = "BENCH"
spool = {{ dir = "{spool}", keep_free = "1 MB" }}

[instrument.folder]
adapter = "files"
folder = "{vendor}"

[target.away]
folder = "{away}"
"""


class Careless(Disk):
    """Does not sync: the spool is made quickly, and nothing happens to the machine meanwhile."""

    def sync_data(self, fd: int) -> None:
        """See `Storage`."""

    def sync_folder(self, path: Path) -> None:
        """See `Storage`."""


@dataclass(frozen=True, slots=True)
class Result:
    """Times in s; ``reading``: the bare bytes of the agent log and the names in the run folders; ``cold``: with an empty page cache."""

    segments: int
    runs: int
    startup: float
    reading: float
    peak_mb: float
    cold: float | None = None
    machine: str = ""
    command: str = ""


def configure(folder: Path) -> Path:
    """Configuration of an agent whose only target is not there."""
    (folder / "vendor").mkdir()
    config = folder / "agent.toml"
    config.write_text(CONFIG.format(spool=folder / "spool", vendor=folder / "vendor", away=folder / "away"))
    return config


async def begin(config: Path) -> Agent:
    """A daemon in this process."""
    agent = Agent(load(config))
    await agent.start()
    return agent


def fill(config: Path, segments: int, runs: int) -> None:
    """Make the spool."""

    async def first() -> tuple[bytes, object, Sequence[bytes]]:
        agent = await begin(config)
        await agent.stop()
        made = agent.credentials
        return made.agent_id, made.key, made.certificates

    agent_id, key, certificates = asyncio.run(first())
    folder, disk = load(config).spool.dir, Careless()
    session = new_session(agent_id, key, certificates, time.time_ns())  # type: ignore[arg-type]
    spool = Spool(folder, disk)
    log = AgentLog(folder / "agent.log", session, disk)
    book = Book(spool.state, Mirror(folder / "book", disk))
    per_run = segments // runs
    for _ in range(runs):
        with spool.transaction():
            number = spool.state.next_run_no()
            name = f"{number:06d}"
            run = RunContext(os.urandom(16), number, "p", "folder", T0, f"p/folder/2026-11-25/{name}", Label())
            home = folder / "runs" / name
            home.mkdir(parents=True)
            log.append(RunOpen(number, run.run_id, bytes(32), T0))
            for ordinal in range(1, per_run + 1):
                path = home / f"{name}_camera_image_{ordinal:06d}.h5"
                path.write_bytes(b"a segment")
                group = "/entry/instrument/camera/image"
                segment_id = os.urandom(16)
                payload = Head(
                    agent_id, segment_id, 100, os.urandom(32), 1, None, T0, T0, session.boot_id, Clock(), State.CLOSED
                ).payload()
                signed = cose.sign(session.key, cose.HEAD, payload)
                closed = Closed(
                    path, None, segment_id, head_hash(payload), signed, State.CLOSED, 9, ordinal, "camera/image",
                    {"camera/image": 100}, {}, {"camera/image": 100 * ordinal}, {"camera/image": T0},
                    {f"{group}/data": (100, 1024, 1024), f"{group}/frame_number": (100,)}, {f"{group}/data": "<u2"},
                )  # fmt: skip
                log.append(SegmentClose(closed.segment_id, closed.head, run.run_id, ordinal, T0))
                book.add_segment(run, closed)
                item = OutboxItem(
                    closed.segment_id.hex(), ItemKind.SEGMENT, path, f"{run.folder}/{path.name}", 9, run.run_id, number, "p", run.label,
                    closed.segment_id, closed.head, os.urandom(32), {"camera/image": 100},
                )  # fmt: skip
                spool.outbox.add(item, ("away",), None, {"camera/image": Counts(items=100)})
            book.put(RunEntry(run, Stage.CLOSED, "session", "complete", T0))
            log.append(RunClose(number, run.run_id, os.urandom(32), T0))
    log.close()
    spool.close()


async def measure(config: Path) -> Result:
    """One start on the spool that is there."""
    folder = load(config).spool.dir
    began = time.perf_counter()
    (folder / "agent.log").read_bytes()
    names = sum(len(os.listdir(home)) for home in (folder / "runs").iterdir())
    reading = time.perf_counter() - began
    began = time.perf_counter()
    agent = await begin(config)
    startup = time.perf_counter() - began
    await agent.stop()
    return Result(names, len(list((folder / "runs").iterdir())), startup, reading, peak_mb())


def start(config: Path) -> Result:
    """One start in a process of its own.

    Raises:
        Impossible: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.startup", "--start", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Impossible(f"the start ended with {done.returncode}:\n{done.stderr}")
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def drop_caches() -> None:
    """Forget all files that are in memory.

    Raises:
        Impossible: the system does not allow it.
    """
    os.sync()
    try:
        DROP_CACHES.write_text("3\n")
    except OSError as error:
        raise Impossible(f"--cold needs root and Linux: {error}") from error


def compare(segments: int, runs: int, *, cold: bool) -> Result:
    """Make the spool, start on it.

    Raises:
        Impossible: a start failed, or the page cache cannot be dropped.
    """
    with tempfile.TemporaryDirectory() as place:
        config = configure(Path(place))
        fill(config, segments, runs)
        result = start(config)
        if cold:
            drop_caches()
            result = replace(result, cold=start(config).startup)
    command = f"python -m benchmarks.startup --segments {segments} --runs {runs}{' --cold' if cold else ''} --json"
    return replace(result, machine=machine(), command=command)


def show(result: Result) -> None:
    """Two sentences."""
    cold = "" if result.cold is None else f", {result.cold:.2f} s with nothing in the page cache"
    print(f"{result.segments} segments of {result.runs} runs: {result.startup:.2f} s to start{cold}, {result.peak_mb:.0f} MB")
    print(f"reading the agent log and the names of the files alone: {result.reading:.2f} s")


def main() -> int:
    """Make, start, say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--cold", action="store_true", help="once more after dropping the page cache of the machine (root)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start is not None:
        print(json.dumps(asdict(asyncio.run(measure(options.start)))))
        return 0
    return answer(lambda: compare(options.segments, options.runs, cold=options.cold), show, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
