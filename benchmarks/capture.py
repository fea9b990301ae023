"""Frames from `Inlet.offer` to durable, signed segments, beside what else could be done with them.

``python -m benchmarks.capture [--data NAME|FRAMES.npy] [--seconds N] [--rounds N] [--streams N] [--dir DIR] [--json]`` runs in turn, same
data, same disk: ``agent`` (the whole daemon, its real recorder), ``h5py_bslz4`` (h5py + hdf5plugin Bitshuffle, one call a frame: what a
user would write), ``h5py_zstd1`` (the same with zstd level 1), ``limit`` (encode + SHA-256 on all cores, the same bytes by pwrite,
fdatasync each 20 ms), ``codec`` (encode + SHA-256 alone) and ``plain`` (the raw bytes by pwrite, fdatasync each 20 ms).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import frames
from benchmarks.harness import answer, in_turn, machine, middle, ratio

WAYS = ("agent", "h5py_bslz4", "h5py_zstd1", "limit", "codec", "plain")


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
    file_ratio: float
    rss_peak_mb: float
    missed: int
    durable_p99_ms: float
    machine: str
    command: str


def measure(data: str, seconds: float, rounds: int, streams: int, folder: str | None, *, quiet: bool = False) -> Result:
    """Every way ``rounds`` times.

    Raises:
        Impossible: a way failed.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        arguments = [data, str(seconds), scratch, str(streams)]
        results = in_turn("benchmarks.capture_ways", dict.fromkeys(WAYS, arguments), rounds, quiet=quiet)
    speed = {way: round(middle(results[way], "mb_per_s"), 1) for way in WAYS}
    others = {"h5py": "h5py_bslz4", "zstd": "h5py_zstd1", "limit": "limit", "codec": "codec", "plain": "plain"}
    ratios = {f"ratio_{name}": round(ratio(results, "agent", way), 3) for name, way in others.items()}
    agents = results["agent"]
    command = f"python -m benchmarks.capture --data {Path(data).name} --seconds {seconds:g} --rounds {rounds} --streams {streams} --json"
    return Result(
        data=Path(data).name, streams=streams, **speed, **ratios,
        file_ratio=round(middle(agents, "raw") / middle(agents, "stored"), 2),
        rss_peak_mb=round(max(r["rss_peak_mb"] for r in agents), 1), missed=sum(r["missed"] for r in agents),
        durable_p99_ms=round(middle(agents, "durable_p99_ms"), 1), machine=machine(), command=command,
    )  # fmt: skip


def show(result: Result) -> None:
    """One sentence, then the table."""
    console = Console()
    console.print(
        f"The agent takes {result.agent:.0f} MB/s, {result.ratio_limit:.2f} of the limit and {result.ratio_h5py:.1f} x what h5py with"
        f" Bitshuffle takes; {result.missed or 'no'} frames were missed."
    )
    table = Table("way", "MB/s raw", "agent / way")
    for way, key in zip(WAYS, ("", "ratio_h5py", "ratio_zstd", "ratio_limit", "ratio_codec", "ratio_plain"), strict=True):
        table.add_row(way, f"{getattr(result, way):.0f}", f"{getattr(result, key):.2f}" if key else "")
    console.print(table)
    console.print(f"{result.data}: compressed {result.file_ratio} x; peak memory {result.rss_peak_mb:.0f} MB; {result.machine}")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capture", description=__doc__)
    parser.add_argument("--data", default="eiger", help=f"{', '.join(frames.NAMES)}, or a .npy file of frames")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each way in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=1, help="detectors at once")
    parser.add_argument("--dir", default=None, help="a folder on the disk to measure on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    return answer(
        lambda: measure(asked.data, asked.seconds, asked.rounds, asked.streams, asked.dir, quiet=asked.json), show, as_json=asked.json
    )


if __name__ == "__main__":
    sys.exit(main())
