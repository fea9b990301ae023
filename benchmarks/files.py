"""Vendor files from their folder to the project space, beside what a user would do by hand.

``python -m benchmarks.files [--files N] [--gb N] [--rounds N] [--dir DIR] [--json]``: a daemon watches a folder and delivers into another.
First a program drops many small files of 10 kB in one burst; every one must land, byte for byte. Then a large file is renamed into the
folder, in turn with ``cp``, ``sync`` of the copy and ``openssl dgst -sha256`` of the copy: *taken* is the time from the rename until the
agent's copy is hashed, signed and durable, *landed* the time until the target has it and has read it back. The file is in the page cache
for all of them. The copy by hand is not durable without ``sync``: the ratio is given with and without it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console

from benchmarks.harness import Impossible, answer, machine, peak_mb
from edge_agent.agent.agent import Agent
from edge_agent.config.loading import load

SMALL = 10_000
PIECE = 8 << 20
PATIENCE = 900.0
CONFIG = """\
site = "BENCH"
spool = {{ dir = "{spool}", keep_free = "1 MB" }}

[instrument.vendor]
adapter = "files"
folder = "{vendor}"

[target.share]
folder = "{share}"
"""


@dataclass(frozen=True, slots=True)
class Result:
    """Times in s, medians over the rounds; ratios are medians of the ratios of each round, 1 being as fast as by hand.

    ``ratio_taken`` and ``ratio_landed`` leave ``sync`` out of what is done by hand, ``ratio_durable`` has it in.
    """

    files: int
    burst_written: float
    burst_landed: float
    missed: int
    gb: float
    taken: float
    landed: float
    cp: float
    sync: float
    openssl: float
    ratio_taken: float
    ratio_durable: float
    ratio_landed: float
    rss_peak_mb: float
    machine: str
    command: str


async def until(condition: Callable[[], bool]) -> float:
    """Wait; the time (s, monotonic) at which it was true.

    Raises:
        Impossible: it took too long.
    """
    end = time.monotonic() + PATIENCE
    while not await asyncio.to_thread(condition):
        if time.monotonic() > end:
            raise Impossible(f"not done after {PATIENCE:g} s")
        await asyncio.sleep(0.02)
    return time.monotonic()


def write_burst(folder: Path, n: int) -> dict[str, bytes]:
    """``n`` small files in a hundred folders, each another one; SHA-256 by name."""
    digests = {}
    for number in range(n):
        name = f"{number % 100:02d}/scan_{number:06d}.dat"
        data = hashlib.sha256(b"%d" % number).digest() * (SMALL // 32) + bytes(SMALL % 32)
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        digests[name] = hashlib.sha256(data).digest()
    return digests


async def burst(agent: Agent, vendor: Path, share: Path, n: int) -> tuple[float, float, int]:
    """Seconds to write and to land ``n`` files, and how many are missing or differ."""
    began = time.monotonic()
    digests = await asyncio.to_thread(write_burst, vendor, n)
    written = time.monotonic()
    landed = await until(lambda: _landed(agent) >= n)
    return written - began, landed - began, await asyncio.to_thread(missing, share, digests)


def missing(share: Path, digests: dict[str, bytes]) -> int:
    """How many files are not in the target with these bytes, once."""
    found: dict[str, list[bytes]] = {}
    for home in share.glob("*/*/*/*/files/vendor"):
        for path in home.glob("*/*"):
            found.setdefault(path.relative_to(home).as_posix(), []).append(hashlib.sha256(path.read_bytes()).digest())
    return sum(found.get(name) != [digest] for name, digest in digests.items())


def _landed(agent: Agent) -> int:
    totals = agent.keeper.totals()
    return totals["vendor/files"].landed if "vendor/files" in totals else 0


def _arrived(agent: Agent) -> int:
    totals = agent.keeper.totals()
    return totals["vendor/files"].arrived if "vendor/files" in totals else 0


async def large(agent: Agent, vendor: Path, source: Path, number: int) -> tuple[float, float]:
    """Seconds until the file is taken, and until it is landed."""
    arrived, landed = _arrived(agent), _landed(agent)
    began = time.monotonic()
    await asyncio.to_thread(source.rename, vendor / f"large_{number}.raw")
    taken = await until(lambda: _arrived(agent) > arrived)
    done = await until(lambda: _landed(agent) > landed)
    return taken - began, done - began


def by_hand(source: Path, copy: Path) -> tuple[float, float, float]:
    """Seconds that ``cp``, ``sync`` and ``openssl dgst -sha256`` take."""
    times = []
    for command in (["cp", source, copy], ["sync", copy], ["openssl", "dgst", "-sha256", copy]):
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode != 0:
            raise Impossible(f"{command[0]}: {done.stderr.decode()}")
        times.append(time.monotonic() - began)
    return times[0], times[1], times[2]


def make(path: Path, gb: float) -> None:
    """A file of random bytes, on the disk."""
    block = os.urandom(PIECE)
    with path.open("wb") as file:
        for _ in range(int(gb * 1e9) // PIECE):
            file.write(block)
        os.fsync(file.fileno())


async def measure(files: int, gb: float, rounds: int, folder: str | None) -> Result:
    """The burst, then the large file in turn with the commands."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        place = Path(scratch)
        vendor, share = place / "vendor", place / "share"
        vendor.mkdir()
        share.mkdir()
        (place / "agent.toml").write_text(CONFIG.format(spool=place / "spool", vendor=vendor, share=share))
        agent = Agent(load(place / "agent.toml"))
        await agent.start()
        try:
            written, landed, missed = await burst(agent, vendor, share, files)
            ours: list[tuple[float, float]] = []
            hand: list[tuple[float, float, float]] = []
            for number in range(rounds):
                source = place / "large.raw"
                await asyncio.to_thread(make, source, gb)
                hand.append(await asyncio.to_thread(by_hand, source, place / "copy.raw"))
                (place / "copy.raw").unlink()
                ours.append(await large(agent, vendor, source, number))
                (vendor / f"large_{number}.raw").unlink()
                shutil.rmtree(share)
                share.mkdir()
        finally:
            await agent.stop()
    taken = median(t for t, _ in ours)
    command = f"python -m benchmarks.files --files {files} --gb {gb:g} --rounds {rounds} --json"
    return Result(
        files, round(written, 2), round(landed, 2), missed, gb, round(taken, 2), round(median(done for _, done in ours), 2),
        *(round(median(times), 2) for times in zip(*hand, strict=True)),
        round(median((cp + ssl) / t for (cp, _, ssl), (t, _) in zip(hand, ours, strict=True)), 3),
        round(median(sum(h) / t for h, (t, _) in zip(hand, ours, strict=True)), 3),
        round(median((cp + ssl) / done for (cp, _, ssl), (_, done) in zip(hand, ours, strict=True)), 3),
        round(peak_mb(), 1), machine(), command,
    )  # fmt: skip


def show(result: Result) -> None:
    """Two sentences."""
    Console().print(
        f"{result.files} files of 10 kB, written in {result.burst_written:.1f} s, landed after {result.burst_landed:.1f} s; missed:"
        f" {result.missed}.\nA file of {result.gb:g} GB is taken in {result.taken:.1f} s: {result.ratio_taken:.2f} of the speed of cp"
        f" and openssl ({result.cp:.1f} + {result.openssl:.1f} s), {result.ratio_durable:.2f} with sync ({result.sync:.1f} s),"
        f" and landed in {result.landed:.1f} s."
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.files", description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--gb", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", default=None, help="a folder on the disk to measure on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    return answer(lambda: asyncio.run(measure(asked.files, asked.gb, asked.rounds, asked.dir)), show, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
