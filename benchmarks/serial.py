"""A serial line at 3 Mbaud: ``python -m benchmarks.serial [--seconds N] [--json]``.

A process of its own writes numbered lines of a balance into a pty, 300 000 bytes a second, which is what 3 Mbaud 8N1 carries. The serial
adapter reads them, once into a sink that checks every number and throws the values away, once with all bytes kept beside them (``raw``),
and once inside ``edge-agent run``, which records and signs. The processor time is that of the whole reading process, all threads. A pty
drops nothing and ignores the baudrate, so the writer keeps the pace, and counts what it could not get rid of in time.
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
import tty
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from adapters.serial import SerialAdapter, SerialConfig
from benchmarks.harness import ROOT, Impossible, answer, in_turn, machine, middle

BYTES_PER_SECOND = 300_000
TEMPLATE = "S {mass:float} g"
LINE = b"S %09d.5 g\r\n"
SLICE = 0.002
SETTLE = 1.0

CONFIG = """\
site = "bench"
spool = {{ dir = "{folder}/spool", keep_free = "1 MB" }}
[instrument.balance]
adapter = "serial"
port = "{port}"
baudrate = 3000000
parse = "{template}"
[target.space]
folder = "{folder}/space"
"""


@dataclass(frozen=True, slots=True)
class Result:
    """Bytes and lines are of one round; percents are of one core, medians of the rounds."""

    bytes_per_s: float
    lines: int
    lost: int
    adapter_core_percent: float
    with_raw_core_percent: float
    agent_core_percent: float
    rounds: int
    seconds: float
    machine: str
    command: str


class Sink:
    """Checks that the numbers rise by one, counts the bytes of `raw`, keeps nothing."""

    def __init__(self) -> None:
        self.lines = self.holes = self.raw = self.gaps = 0
        self._next = 0
        self.stream: Any = None

    def open(self, stream: Any) -> Sink:
        """One inlet for all streams: the shape tells them apart."""
        return self

    async def put(self, block: Any) -> None:
        """Check one block."""
        if block.values.ndim > 1:
            self.raw += int((block.status & 0xFF).sum())
            return
        numbers = block.values.astype(np.int64)
        self.holes += int(np.count_nonzero(np.diff(numbers, prepend=self._next - 1) != 1))
        self._next = int(numbers[-1]) + 1
        self.lines += len(numbers)

    def gap(self, gap: Any) -> None:
        """Count."""
        self.gaps += 1

    def connected(self, source: str, *, detail: str = "") -> None:
        """Nothing."""

    def disconnected(self, source: str, *, why: str) -> None:
        """Nothing."""

    def describe(self, facts: Any) -> None:
        """Nothing."""


def write(seconds: float) -> None:
    """Make a pty, say its name, and write at the pace of the line once a line comes on standard input."""
    master, slave = os.openpty()
    tty.setraw(slave)
    print(os.ttyname(slave), flush=True)
    sys.stdin.readline()
    lines = int(seconds * BYTES_PER_SECOND / len(LINE % 0))
    data = b"".join(LINE % i for i in range(lines))
    began, at, late = time.monotonic(), 0, 0.0
    while at < len(data):
        due = int((time.monotonic() - began) * BYTES_PER_SECOND)
        while at < min(due, len(data)):
            at += os.write(master, data[at : min(due, len(data))])
        late = max(late, time.monotonic() - began - at / BYTES_PER_SECOND)
        time.sleep(SLICE)
    print(json.dumps({"lines": lines, "bytes": len(data), "seconds": time.monotonic() - began, "late": late}), flush=True)
    sys.stdin.readline()
    os.close(master)
    os.close(slave)


def _writer(seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.serial", "write", str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def read(seconds: float, *, raw: bool) -> dict[str, Any]:
    """Run the adapter alone against a writer; what it took of the processor, and what it got."""
    writer = _writer(seconds)
    assert writer.stdin is not None
    assert writer.stdout is not None
    port = writer.stdout.readline().strip()
    sink = Sink()
    config = SerialConfig(port=port, baudrate=3_000_000, parse=TEMPLATE, raw=raw)
    task = asyncio.create_task(SerialAdapter("balance", config).run(sink))  # type: ignore[arg-type]
    await asyncio.sleep(SETTLE)
    cpu = time.process_time()
    writer.stdin.write("go\n")
    writer.stdin.flush()
    wrote = json.loads(await asyncio.to_thread(writer.stdout.readline))
    deadline = time.monotonic() + 10
    while sink.lines < wrote["lines"] and time.monotonic() < deadline:  # noqa: ASYNC110 - the sink tells nobody
        await asyncio.sleep(0.01)
    cpu = time.process_time() - cpu
    task.cancel()
    await asyncio.wait([task])
    writer.communicate("end\n")
    lost = wrote["lines"] - sink.lines + sink.holes + sink.gaps + (wrote["bytes"] - sink.raw if raw else 0)
    return {"core_percent": 100 * cpu / wrote["seconds"], "lost": lost, **wrote}


def agent(seconds: float) -> dict[str, Any]:
    """Run the whole agent against a writer; what it took of the processor, and what it recorded."""
    import h5py
    import hdf5plugin  # noqa: F401 - registers the filters

    writer = _writer(seconds)
    assert writer.stdin is not None
    assert writer.stdout is not None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "space").mkdir()
        port = writer.stdout.readline().strip()
        (folder / "agent.toml").write_text(CONFIG.format(folder=folder, port=port, template=TEMPLATE))
        command = [sys.executable, "-m", "edge_agent.cli"]
        options = ["--config", str(folder / "agent.toml")]
        with subprocess.Popen(
            [*command, "run", *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise Impossible("the agent did not start")
            subprocess.run([*command, "session", "start", "--project", "bench", *options], cwd=ROOT, check=True, capture_output=True)
            time.sleep(3.0)  # what only happens once after a start
            before = _cpu(process.pid)
            writer.stdin.write("go\n")
            writer.stdin.flush()
            wrote = json.loads(writer.stdout.readline())
            used = _cpu(process.pid) - before
            subprocess.run([*command, "session", "stop", *options], cwd=ROOT, check=True, capture_output=True)
            process.terminate()
        writer.communicate("end\n")
        numbers: list[int] = []
        for path in sorted((folder / "space").rglob("*.nxs")):
            with h5py.File(path) as file:
                numbers += file["/entry/instrument/balance/mass/value"][:].astype(np.int64).tolist()
    lost = wrote["lines"] - len(set(numbers))
    return {"core_percent": 100 * used / wrote["seconds"], "lost": lost, **wrote}


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(seconds: float, rounds: int, *, quiet: bool) -> Result:
    """Each way in turn, in a process of its own.

    Raises:
        Impossible: one of them failed, or the writer could not keep the pace.
    """
    ways: dict[str, Sequence[str]] = {way: [str(seconds)] for way in ("adapter", "raw", "agent")}
    found = in_turn("benchmarks.serial", ways, rounds, quiet=quiet)
    every = [result for results in found.values() for result in results]
    return Result(
        bytes_per_s=round(min(result["bytes"] / result["seconds"] for result in every)),
        lines=every[0]["lines"],
        lost=sum(result["lost"] for result in every),
        adapter_core_percent=round(middle(found["adapter"], "core_percent"), 2),
        with_raw_core_percent=round(middle(found["raw"], "core_percent"), 2),
        agent_core_percent=round(middle(found["agent"], "core_percent"), 2),
        rounds=rounds,
        seconds=seconds,
        machine=machine(),
        command=f"python -m benchmarks.serial --seconds {seconds:g} --rounds {rounds} --json",
    )


def show(result: Result) -> None:
    """What came out, for people."""
    console = Console()
    console.print(f"{result.bytes_per_s:,.0f} bytes/s over a pty, {result.lines:,} lines a round: {result.lost} lost or out of order")
    console.print(f"{result.adapter_core_percent:6.2f} % of a core: the adapter alone")
    console.print(f"{result.with_raw_core_percent:6.2f} % of a core: with all bytes kept beside the values")
    console.print(f"{result.agent_core_percent:6.2f} % of a core: the whole agent, recording and signing")


def main() -> int:
    """The command."""
    if len(sys.argv) == 3 and sys.argv[1] in ("write", "adapter", "raw", "agent"):
        seconds = float(sys.argv[2])
        if sys.argv[1] == "write":
            write(seconds)
        elif sys.argv[1] == "agent":
            print(json.dumps(agent(seconds)))
        else:
            print(json.dumps(asyncio.run(read(seconds, raw=sys.argv[1] == "raw"))))
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serial", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    return answer(lambda: measure(asked.seconds, asked.rounds, quiet=asked.json), show, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
