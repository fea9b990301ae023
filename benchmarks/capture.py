"""Frames from `Inlet.offer` to durable, signed segments, beside what else could be done with them.

``python -m benchmarks.capture [--data NAME|FRAMES.npy] [--seconds N] [--others N] [--rounds N] [--streams N] [--dir DIR] [--json]`` runs in
turn, same data, same disk, each second round backwards: ``agent`` (the whole daemon, its real recorder), ``limit`` (encode + SHA-256 on
all cores, the same bytes by pwrite, fdatasync each 20 ms), ``codec`` (encode + SHA-256 alone), ``h5py_bslz4`` (h5py + hdf5plugin
Bitshuffle, one call a frame: what a user would write), ``h5py_zstd1`` (the same with zstd level 1) and ``plain`` (the raw bytes by pwrite,
fdatasync each 20 ms). With several streams ``limit`` and ``plain`` have a file for each, as the agent has. The first three and the last run
for ``--seconds``: opening and closing a segment is part of what the agent does, and a disk takes more in its first seconds than later. The
others run for ``--others``, because their rates do not depend on it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import frames
from benchmarks.harness import answer, in_turn, machine, middle, ratio

WAYS = ("agent", "limit", "codec", "h5py_bslz4", "h5py_zstd1", "plain")
"""In the order in which they run: the ratio of neighbours is told best."""
LONG = frozenset({"agent", "limit", "codec", "plain"})
RATIOS = {"h5py": "h5py_bslz4", "zstd": "h5py_zstd1", "limit": "limit", "codec": "codec", "plain": "plain"}
Found = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Result:
    """MB/s of raw data, medians over the rounds; ratios are medians of the ratios of each round."""

    data: str
    streams: int
    agent: float
    h5py_bslz4: float
    h5py_zstd1: float
    limit: float
    codec: float
    plain: float
    ratio_h5py: float
    ratio_zstd: float
    ratio_limit: float
    ratio_codec: float
    ratio_plain: float
    limit_h5py: float
    """The limit / h5py with Bitshuffle: what no recorder on this machine can be beyond; likewise the next two."""
    limit_zstd: float
    limit_codec: float
    file_ratio: float
    rss_peak_mb: float
    missed: int
    durable_p99_ms: float
    machine: str
    command: str


def once(data: str, seconds: float, others: float, streams: int, folder: str | None, *, backwards: bool, quiet: bool) -> Found:
    """Every way once.

    Raises:
        Impossible: a way failed.
    """
    ways = reversed(WAYS) if backwards else WAYS
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        arguments = {way: [data, str(seconds if way in LONG else others), scratch, str(streams)] for way in ways}
        return in_turn("benchmarks.capture_ways", arguments, 1, quiet=quiet)


def result(data: str, seconds: float, others: float, streams: int, rounds: Sequence[Found]) -> Result:
    """What these rounds say."""
    results = {way: [found for each in rounds for found in each[way]] for way in WAYS}
    speed = {way: round(middle(results[way], "mb_per_s"), 1) for way in WAYS}
    ratios = {f"ratio_{name}": round(ratio(results, "agent", way), 3) for name, way in RATIOS.items()}
    limits = {f"limit_{name}": round(ratio(results, "limit", RATIOS[name]), 3) for name in ("h5py", "zstd", "codec")}
    agents = results["agent"]
    options = f"--data {Path(data).name} --seconds {seconds:g} --others {others:g} --rounds {len(rounds)} --streams {streams}"
    return Result(
        data=Path(data).name, streams=streams, **speed, **ratios, **limits,
        file_ratio=round(middle(agents, "raw") / middle(agents, "stored"), 2),
        rss_peak_mb=round(max(r["rss_peak_mb"] for r in agents), 1), missed=sum(r["missed"] for r in agents),
        durable_p99_ms=round(middle(agents, "durable_p99_ms"), 1), machine=machine(),
        command=f"python -m benchmarks.capture {options} --json",
    )  # fmt: skip


def measure(data: str, seconds: float, others: float, rounds: int, streams: int, folder: str | None, *, quiet: bool = False) -> Result:
    """Every way ``rounds`` times.

    Raises:
        Impossible: a way failed.
    """
    found = [once(data, seconds, others, streams, folder, backwards=bool(turn % 2), quiet=quiet) for turn in range(rounds)]
    return result(data, seconds, others, streams, found)


def show(result: Result) -> None:
    """One sentence, then the table."""
    console = Console()
    console.print(
        f"The agent takes {result.agent:.0f} MB/s, {result.ratio_limit:.2f} of the limit and {result.ratio_h5py:.1f} x what h5py with"
        f" Bitshuffle takes; {result.missed or 'no'} frames were missed."
    )
    table = Table("way", "MB/s raw", "agent / way")
    table.add_row("agent", f"{result.agent:.0f}", "")
    for name, way in RATIOS.items():
        table.add_row(way, f"{getattr(result, way):.0f}", f"{getattr(result, f'ratio_{name}'):.2f}")
    console.print(table)
    console.print(f"{result.data}: compressed {result.file_ratio} x; peak memory {result.rss_peak_mb:.0f} MB; {result.machine}")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capture", description=__doc__)
    parser.add_argument("--data", default="eiger", help=f"{', '.join(frames.NAMES)}, or a .npy file of frames")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the agent, the limit, the codec and the plain writer in each round")
    parser.add_argument("--others", type=float, default=4.0, help="seconds of each other way")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=1, help="detectors at once")
    parser.add_argument("--dir", default=None, help="a folder on the disk to measure on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    return answer(
        lambda: measure(asked.data, asked.seconds, asked.others, asked.rounds, asked.streams, asked.dir, quiet=asked.json),
        show,
        as_json=asked.json,
    )


if __name__ == "__main__":
    sys.exit(main())
