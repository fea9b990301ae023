"""Verifying a segment beside hashing the same file with openssl (Debian's sha256sum does not use the processor's SHA instructions).

``python -m benchmarks.verify [--data NAME|FRAMES.npy] [--mb N] [--rounds N] [--dir DIR] [--json]`` records one segment with the daemon,
then runs in turn ``edge-agent verify --level 1`` and ``openssl dgst -sha256`` on it, as a user would. Beside the statement of its run the
segment stands for the run, and then every byte is hashed twice: within its chunk, and within the file. So it is measured alone, under
another name, and as a run.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console

from benchmarks import frames
from benchmarks.capture_ways import record
from benchmarks.harness import ROOT, Impossible, answer, machine

VERIFY = [sys.executable, "-m", "edge_agent.cli", "verify", "--level", "1"]
OPENSSL = ["openssl", "dgst", "-sha256"]


@dataclass(frozen=True, slots=True)
class Result:
    """MB/s of the file, medians over the rounds; ratios to openssl are the medians of the ratios of each round."""

    data: str
    file_mb: float
    chunks: int
    verify: float
    run: float
    openssl: float
    ratio_openssl: float
    ratio_run: float
    machine: str
    command: str


def measure(data: str, mb: float, rounds: int, folder: str | None) -> Result:
    """Record, then time both.

    Raises:
        Impossible: a command failed.
    """
    pictures = frames.load(data)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        segment, chunks = asyncio.run(record(pictures, mb, Path(scratch)))
        size = segment.stat().st_size / 1e6
        alone = Path(scratch, "segment.h5")
        alone.hardlink_to(segment)
        ways = {"verify": [*VERIFY, str(alone)], "run": [*VERIFY, str(segment)], "openssl": [*OPENSSL, str(alone)]}
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, command in ways.items():
                started = time.monotonic()
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
                taken[name].append(time.monotonic() - started)
                if done.returncode != 0:
                    raise Impossible(f"{name} ended with {done.returncode}: {done.stdout}{done.stderr}")
    ratio, ratio_run = (
        round(median(plain / ours for ours, plain in zip(taken[way], taken["openssl"], strict=True)), 3) for way in ("verify", "run")
    )
    command = f"python -m benchmarks.verify --data {Path(data).name} --mb {mb:g} --rounds {rounds} --json"
    speeds = {name: round(size / median(seconds), 1) for name, seconds in taken.items()}
    return Result(
        Path(data).name, round(size, 1), chunks, **speeds, ratio_openssl=ratio, ratio_run=ratio_run, machine=machine(), command=command
    )  # fmt: skip


def show(result: Result) -> None:
    """One sentence."""
    Console().print(
        f"A segment of {result.file_mb:.0f} MB verifies at {result.verify:.0f} MB/s, {result.ratio_openssl:.2f} of what hashing it with"
        f" openssl takes ({result.openssl:.0f} MB/s); as a run, every byte hashed twice, at {result.run:.0f} MB/s ({result.ratio_run:.2f})."
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verify", description=__doc__)
    parser.add_argument("--data", default="eiger", help=f"{', '.join(frames.NAMES)}, or a .npy file of frames")
    parser.add_argument("--mb", type=float, default=3500.0, help="size of the segment; the largest has 4 GiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", default=None, help="a folder on the disk to measure on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    return answer(lambda: measure(asked.data, asked.mb, asked.rounds, asked.dir), show, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
