"""Uploads beside the tools that do nothing else. ``python -m benchmarks.upload [--mb N] [--rounds N] [--dir DIR] [--json]``.

One file of random bytes goes to each target over TLS on loopback, in turn with another program that sends the same bytes to the same
server: to a SeaweedFS beside boto3's transfer manager and ``rclone copyto``, to a landing service over HTTPS beside curl, and through a
mosquitto beside a bare paho publisher with a bare subscriber (same QoS, same size of pieces). Ours always includes its proof: SHA-256 of
what was read, the store's checksum compared or the signed receipt checked; over MQTT also that each piece is on the landing service's
disk. Client and server share the machine, so what a server spends slows the client; the processor time is that of the client alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.files import make
from benchmarks.harness import answer, in_turn, machine, middle, ratio
from benchmarks.targets import at_least
from benchmarks.upload_servers import servers

LEAST = {"s3": 0.9, "https": 0.9, "mqtt": 0.8}
OTHERS = {"s3": ("boto3", "rclone"), "https": ("curl",), "mqtt": ("paho",)}


@dataclass(frozen=True, slots=True)
class Way:
    """Medians of the rounds; the processor time and the memory are the sender's."""

    mb_per_s: float
    cpu_ns_per_byte: float
    rss_peak_mb: float


@dataclass(frozen=True, slots=True)
class Result:
    """Ratios are medians of those of each round, to the fastest of the others."""

    ways: Mapping[str, Way]
    ratio_s3: float
    ratio_https: float
    ratio_mqtt: float
    mb: float
    rounds: int
    machine: str
    command: str


def measure(mb: float, rounds: int, folder: str | None, targets: Sequence[str], *, quiet: bool) -> Result:
    """All ways in turn."""
    ways = [way for target in targets for way in (target, *OTHERS[target]) if way != "rclone" or shutil.which("rclone")]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / "run.h5"
        make(file, mb / 1000)
        with servers(Path(scratch)) as there:
            said = [json.dumps({**asdict(there), "file": str(file)})]
            found = in_turn("benchmarks.upload_ways", dict.fromkeys(ways, said), rounds, quiet=quiet)
    ratios = {target: min(ratio(found, target, way) for way in OTHERS[target] if way in found) for target in targets}
    command = f"python -m benchmarks.upload --mb {mb:g} --rounds {rounds} --json"
    return Result(
        {way: _way(found[way]) for way in ways}, *(round(ratios.get(target, 0.0), 3) for target in LEAST), mb, rounds, machine(), command
    )  # fmt: skip


def _way(results: Sequence[Mapping[str, Any]]) -> Way:
    return Way(*(round(middle(results, key), 1) for key in ("mb_per_s", "cpu_ns_per_byte", "rss_peak_mb")))


def show(result: Result) -> None:
    """A table, and what to think of it."""
    table = Table("", "MB/s", "ns of processor per byte", "MB of memory")
    for name, way in result.ways.items():
        table.add_row(name, f"{way.mb_per_s:.0f}", f"{way.cpu_ns_per_byte:.1f}", f"{way.rss_peak_mb:.0f}")
    console = Console()
    console.print(table)
    for target, least in LEAST.items():
        if target in result.ways:
            value = getattr(result, f"ratio_{target}")
            console.print(f"{target}: {value:.2f} of the fastest other, {at_least(value, least)}")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upload", description=__doc__)
    parser.add_argument("--mb", type=float, default=256.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", default=None, help="a folder on the disk to measure on")
    parser.add_argument("--only", choices=LEAST, action="append", help="this target; may be repeated; default: all")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    targets = asked.only or list(LEAST)
    return answer(lambda: measure(asked.mb, asked.rounds, asked.dir, targets, quiet=asked.json), show, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
