"""Rows: from the inlet of an adapter to durable, signed segments. ``python -m benchmarks.rows [--seconds N] [--json]``.

Two questions. How many samples a second get through, in blocks of 100 into 200 streams, as fast as the recorder takes them? And what does
a sample cost with 10, 100, 1 000 and 10 000 tags, when the same number of samples a second comes in? The cost is the processor time of the
whole process, all threads: the source, opening the segment, recording, closing it. Each case runs in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from edge_agent.agent.sink import RoutedInlet
from edge_agent.model import Block, Kind, Label, Stream
from edge_agent.record.agent_log import AgentLog
from edge_agent.record.recorder import Recorder
from edge_agent.record.segment_writer import Closed
from edge_agent.record.session import Session, new_session
from edge_agent.runs.day import Day
from edge_agent.runs.group import Group
from edge_agent.runs.keeper import Keeper, NewRun, Routes
from edge_agent.runs.live import LiveRun
from edge_agent.seal.keys import AGENT_URN
from edge_agent.segment.report import SIGNED
from edge_agent.segment.verify import verify_segment
from edge_agent.spool.spool import Spool
from edge_agent.storage import DISK

STREAMS = 200
BLOCK = 100
TAGS = (10, 100, 1_000, 10_000)
RATE = 100_000
FAST = 500_000
POOL = 64


@dataclass(frozen=True, slots=True)
class Result:
    """One case. Times in s; ``cpu`` is of all threads; ``peak`` is the largest resident size in bytes, ``base`` the one before the run."""

    tags: int
    samples: int
    seconds: float
    closing: float
    cpu: float
    p99_ms: float
    base: int
    peak: int
    segments: int
    stored: int

    @property
    def rate(self) -> float:
        """Durable samples a second."""
        return self.samples / self.seconds

    @property
    def cost(self) -> float:
        """Processor time a sample, microseconds."""
        return 1e6 * self.cpu / self.samples


class NoDays:
    """Everything goes into the run that is open."""

    def today(self, group: str, project: str = "") -> Day:
        """See `Days`."""
        raise NotImplementedError

    def begin_run(self, group: str, day: Day) -> LiveRun:
        """See `Days`."""
        raise NotImplementedError

    def soon(self, work: Callable[[], None]) -> None:
        """See `Days`."""
        raise NotImplementedError


def session() -> tuple[Session, x509.Certificate]:
    """A key of this boot, certified by an identity that is its own root."""
    agent_id, key = os.urandom(16), Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark")])
    start = datetime.now(UTC)
    urn = x509.UniformResourceIdentifier(AGENT_URN + agent_id.hex())
    root = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([urn]), critical=False)
        .sign(key, None)
    )
    return new_session(agent_id, key, [root.public_bytes(Encoding.DER)], time.time_ns()), root


async def measure(tags: int, blocks: int, rate: int | None, folder: Path) -> Result:
    """Record blocks of `BLOCK` samples, one stream after the other, at ``rate`` samples a second or as fast as they are taken."""
    signer, root = session()
    spool = Spool(folder)
    recorder, log = Recorder(), AgentLog(folder / "agent.log", signer, DISK)
    streams = [Stream("plc", f"tag{n:05d}", Kind.ROWS, unit="degC", source_uri=f"opc.tcp://plc:4840#ns=2;i={n}") for n in range(tags)]
    keeper = Keeper(
        "benchmark", UTC, spool, DISK, signer, recorder, log, routes=lambda group: Routes((), frozenset()), record=lambda entry: "{}",
        kick=lambda: None, known_rows=lambda group: tags,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    values = np.cumsum(rng.normal(size=(POOL, BLOCK)), axis=1).round(3)
    spread = np.arange(BLOCK, dtype="<i8") * 10**6
    base = _peak()
    cpu, started = time.process_time(), time.perf_counter()
    live = keeper.open(NewRun("bl", "session", "benchmark", Label(), time.time_ns()))
    group = Group("bl", {}, NoDays())
    group.open(live)
    inlets = [RoutedInlet(stream, group, keeper) for stream in streams]
    for n in range(blocks):
        now = time.time_ns()
        await inlets[n % tags].put(Block(values[n % POOL], spread + now, spread + (now + 1000)))
        if rate is not None:
            await asyncio.sleep(max(0.0, started + (n + 1) * BLOCK / rate - time.perf_counter()))
    while recorder.room.used:  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0.001)
    durable = time.perf_counter()
    p99 = float(np.quantile(recorder.latencies, 0.99)) * 1e3
    group.close(live)
    await asyncio.wrap_future(live.recording.close("complete"))
    keeper.forget(live)
    cpu, ended = time.process_time() - cpu, time.perf_counter()
    peak = _peak()
    closed = keeper.book.segments(live.entry.run, keeper.folder(live.entry.run))
    recorder.stop()
    log.close()
    spool.close()
    _check(closed, root, blocks * BLOCK)
    return Result(
        tags, blocks * BLOCK, durable - started, ended - durable, cpu, p99, base, peak, len(closed), sum(c.size for c in closed)
    )  # fmt: skip


def _check(closed: Sequence[Closed], root: x509.Certificate, samples: int) -> None:
    """What was measured is a record: all samples are counted, and every segment is signed."""
    counted = sum(sum(c.counts.values()) for c in closed)
    if counted != samples:
        raise SystemExit(f"{samples} samples went in, {counted} were counted")
    for report in (verify_segment(c.path, root) for c in closed):
        if report.level != SIGNED:
            raise SystemExit(f"{report.path} is at level {report.level}: {report.reason}")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _in_a_process(tags: int, blocks: int, rate: int | None, place: Path | None) -> Result:
    command = [sys.executable, "-m", "benchmarks.rows", "--case", json.dumps([tags, blocks, rate, place and str(place)])]
    return Result(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def _case(tags: int, blocks: int, rate: int | None, place: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        result = asyncio.run(measure(tags, blocks, rate, Path(folder)))
    print(json.dumps(asdict(result)))


def main() -> None:
    """Run all cases and print them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rows", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each case runs, at the rate that is asked for")
    parser.add_argument("--dir", type=Path, help="where to write (the disk that is measured)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        _case(*json.loads(options.case))
        return
    fast = _in_a_process(STREAMS, int(options.seconds * FAST / BLOCK), None, options.dir)
    scaled = [_in_a_process(tags, int(options.seconds * RATE / BLOCK), RATE, options.dir) for tags in TAGS]
    growth = max(r.cost for r in scaled) / scaled[0].cost
    if options.json:
        cases = {str(r.tags): asdict(r) | {"cost_us": r.cost, "samples_per_s": r.rate} for r in scaled}
        machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        print(
            json.dumps(
                {
                    "samples_per_s": fast.rate,
                    "samples_per_cpu_s": 1e6 / fast.cost,
                    "growth": growth,
                    "fast": asdict(fast),
                    "tags": cases,
                    "machine": machine,
                },
                indent=1,
            )
        )
        return
    print(f"{fast.rate:10,.0f} samples/s durable and signed: {STREAMS} streams, blocks of {BLOCK}, as fast as they are taken")
    print(f"{1e6 / fast.cost:10,.0f} samples/s of processor time, all threads: what a core gives when nothing else runs on it")
    print(f"{fast.p99_ms:10.0f} ms from put to durable (p99); {fast.closing:.1f} s to close; {fast.peak / 2**20:.0f} MiB at most")
    print(f"\nat {RATE:,} samples/s, blocks of {BLOCK}:\n      tags  us/sample  close s  MiB more  stored B/sample")
    for r in scaled:
        print(f"{r.tags:10,} {r.cost:10.2f} {r.closing:8.2f} {(r.peak - r.base) / 2**20:9.0f} {r.stored / r.samples:16.1f}")
    print(f"cost from {TAGS[0]} tags to the dearest: x {growth:.2f}")


if __name__ == "__main__":
    main()
