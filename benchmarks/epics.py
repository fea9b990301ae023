"""EPICS: from servers that nobody here wrote to durable, signed segments. ``python -m benchmarks.epics [--json]``.

**Frames**: pvapy's simulated areaDetector sends 1024 x 1024 uint16 at rising rates. At each, for ``--seconds``: the agent, a bare p4p
monitor (``nt=False``, the same queue) that throws the frames away, and pvapy's own consumer that writes HDF5 (uncompressed, unsigned,
not synced). Clean is a rate at which nothing is missed. The highest clean rates of the agent and of pvapy's consumer are then held for
``--hold`` seconds.
``--data noise`` sends pixels that no codec can shrink, so what is measured is the disk; the default are Poisson counts.

**Scalars**: softIocPVA counts in ``--pvs`` records a hundred times a second; updates/s that become durable,
beside a bare client of the same library, over Channel Access and PV Access. Where both keep up with the source their rates say nothing
of what they could take, so the updates for each second of processor time are compared, too. A rate above the source's is a backlog of the
start that is worked off.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from benchmarks.epics_sources import IMAGE, QUEUE, counters, detector, environment, running, tool
from benchmarks.harness import Impossible, answer, machine, one
from firmware_sim.loopback import hold_port

RATES = (50, 100, 150, 200, 250, 300, 350, 400, 450, 500, 600, 700, 800)
DELAY = 8.0
"""Seconds from the server's start to its first frame: everybody is connected by then."""
FRAMES = 10
MEAN = 1.6
WARM = 8.0
WRITER = "pvapy.hpc.hdf5AdImageWriter.Hdf5AdImageWriter"
PER_FILE = 500


@dataclass(frozen=True, slots=True)
class Result:
    """Frames/s and updates/s.

    ``clean``: the highest rate without a miss, of the agent and of pvapy's writer; ``held``: for ``hold_s`` seconds, in which what a disk
    cannot take shows; where even the lowest rate was not held, it stands there with what was missed.
    ``frames_ratio``: the agent's frames/s to those of the bare monitor at the agent's highest clean rate. ``offered``: what the
    records count, in updates/s; ``ca_ratio``, ``pva_ratio``: of the rates; ``..._per_core``: of the updates for each second of
    processor time, which is the ratio of what the two could take if the source gave more.
    """

    data: str
    steps: dict[str, dict[str, Any]]
    clean: int
    clean_pvapy: int
    clean_ratio: float
    held: int
    hold_s: float
    held_missed: int
    held_mb_per_s: float
    held_pvapy: int
    held_missed_pvapy: int
    frames_ratio: float
    ca: dict[str, float]
    pva: dict[str, float]
    offered: int
    ca_ratio: float
    ca_per_core: float
    pva_ratio: float
    pva_per_core: float
    machine: str
    command: str


class Scalars(NamedTuple):
    """Median updates/s of both and their share of a core; medians of the ratios of each round, of the rates and for each core."""

    figures: dict[str, float]
    ratio: float
    per_core: float


class Bench:
    """Ports and folder of one run."""

    def __init__(self, folder: Path, seconds: float, data: str, say: Callable[[str], None]) -> None:
        self.folder, self.seconds, self.say = folder, seconds, say
        self.ports = {"ca_port": hold_port(), "pva_port": hold_port()}
        self.env = environment(**self.ports)
        self.frames: Path | None = None
        if data == "poisson":
            self.frames = folder / "frames.npy"
            np.save(self.frames, np.random.default_rng(7).poisson(MEAN, (FRAMES, 1024, 1024)).astype("<u2"))

    def way(self, name: str, seconds: float, **more: Any) -> dict[str, Any]:
        """One way in a process of its own and a folder that is gone afterwards."""
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            return one("benchmarks.epics_ways", name, [json.dumps({"folder": place, "seconds": seconds, **self.ports, **more})])

    def at(self, rate: int, name: str, seconds: float | None = None) -> dict[str, Any]:
        """Frames at ``rate`` by one way."""
        self.say(f"{rate} frames/s: {name}")
        with detector(self.frames, rate, self.env, self.folder, DELAY):
            if name == "pvapy":
                return self.pvapy(seconds or self.seconds)
            return self.way(f"frames_{name}", seconds or self.seconds)

    def pvapy(self, seconds: float) -> dict[str, Any]:
        """Pvapy's consumer with its HDF5 writer; missed is what it counts itself, what its own queue refused included."""
        place, log = self.folder / "pvapy", self.folder / f"consumer-{time.monotonic_ns()}.log"
        place.mkdir()
        sizes = ["-sqs", str(QUEUE), "-rqs", str(QUEUE), "-rt", f"{DELAY + seconds:g}", "-rp", "100000", "-rs", "all", "-dc"]
        settings = json.dumps({"outputDirectory": str(place), "nImagesPerFile": PER_FILE})
        command = [tool("pvapy-hdf5") / "pvapy-hpc-consumer", "-ic", IMAGE, "-pc", WRITER, "-pa", settings, *sizes]
        try:
            with running(command, self.env, log) as process:
                process.wait(DELAY + seconds + 120)
        finally:
            shutil.rmtree(place)
        text = log.read_text()
        stats = re.findall(r"'processorStats': (\{.*?\})", text)
        if not stats:
            raise Impossible(f"pvapy's consumer said nothing:\n{text[-2000:]}")
        figures = ast.literal_eval(re.sub(r"(-?[\d.]+)(s|Hz)\b", r"\1", stats[-1]))
        return {"frames": figures["nProcessed"], "missed": figures["nMissed"], "rate": figures["processedRate"]}

    def climb(self, rates: tuple[int, ...], ways: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """Every way at rising rates until it misses; a rate that was missed is tried once more."""
        steps: dict[str, dict[str, Any]] = {}
        going = set(ways)
        for rate in rates:
            if not going:
                break
            steps[str(rate)] = {}
            for name in sorted(going):
                found = self.at(rate, name)
                if found["missed"]:
                    found = min(found, self.at(rate, name), key=lambda each: int(each["missed"]))
                steps[str(rate)][name] = found
                if found["missed"] or found["rate"] < 0.95 * rate:
                    going.discard(name)
        return steps

    def hold(self, name: str, rates: Sequence[int], clean: int, seconds: float) -> tuple[int, int, float]:
        """The highest rate up to ``clean`` that is held for so long: frames/s offered, missed, frames/s."""
        for rate in sorted((r for r in rates if r <= clean), reverse=True):
            found = self.at(rate, name, seconds)
            if not found["missed"] or rate == min(rates):
                return rate, int(found["missed"]), float(found["rate"])
        return 0, 0, 0.0

    def scalars(self, scheme: str, pvs: int, rounds: int) -> Scalars:
        """Both clients in turn, against the same servers."""
        found: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for turn in range(rounds):
            self.say(f"scalars over {scheme}, round {turn + 1} of {rounds}")
            with counters(pvs, self.env, self.folder):
                asked = {"scheme": scheme, "pvs": pvs, "warm": WARM}
                found.append((self.way("scalars_agent", self.seconds, **asked), self.way("scalars_bare", self.seconds, **asked)))
        figures = {
            name: round(median(pair[side][key] for pair in found), digits)
            for side, who in enumerate(("agent", "bare"))
            for name, key, digits in ((who, "rate", 0), (f"{who}_cpu", "cpu", 2))
        }
        return Scalars(
            figures,
            round(median(agent["rate"] / bare["rate"] for agent, bare in found), 3),
            round(median(agent["rate"] / agent["cpu"] / bare["rate"] * bare["cpu"] for agent, bare in found), 3),
        )


def _clean(steps: dict[str, dict[str, Any]], name: str) -> int:
    """The highest rate of the unbroken row of clean ones."""
    best = 0
    for rate, found in steps.items():
        if name not in found or found[name]["missed"] or found[name]["rate"] < 0.95 * int(rate):
            break
        best = int(rate)
    return best


def measure(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> Result:
    """Everything.

    Raises:
        Impossible: a server or a way failed.
    """
    bench = Bench(folder, options.seconds, options.data, say)
    steps: dict[str, dict[str, Any]] = {}
    clean = theirs = held = missed = held_theirs = missed_theirs = 0
    held_rate = frames_ratio = 0.0
    if not options.no_frames:
        steps = bench.climb(tuple(options.rates), ("agent", "bare", "pvapy"))
        clean, theirs = _clean(steps, "agent"), _clean(steps, "pvapy")
        held, missed, held_rate = bench.hold("agent", options.rates, clean, options.hold)
        held_theirs, missed_theirs, _ = bench.hold("pvapy", options.rates, theirs, options.hold)
        if clean:
            at = steps[str(clean)]
            frames_ratio = round(at["agent"]["rate"] / (at.get("bare") or bench.at(clean, "bare"))["rate"], 3)
    nothing = Scalars({}, 0.0, 0.0)
    ca = nothing if options.no_scalars else bench.scalars("ca", options.pvs, options.rounds)
    pva = nothing if options.no_scalars else bench.scalars("pva", options.pvs, options.rounds)
    return Result(
        data=options.data, steps=steps, clean=clean, clean_pvapy=theirs, clean_ratio=round(clean / theirs, 2) if theirs else 0.0,
        held=held, hold_s=options.hold, held_missed=missed, held_mb_per_s=round(held_rate * 2**21 / 1e6, 1), held_pvapy=held_theirs,
        held_missed_pvapy=missed_theirs, frames_ratio=frames_ratio,
        ca=ca.figures, pva=pva.figures, offered=0 if options.no_scalars else 100 * options.pvs, ca_ratio=ca.ratio,
        ca_per_core=ca.per_core, pva_ratio=pva.ratio, pva_per_core=pva.per_core, machine=machine(),
        command=" ".join(["python -m benchmarks.epics", *sys.argv[1:]]),
    )  # fmt: skip


def show(result: Result) -> None:
    """The sentences."""
    console = Console(highlight=False)
    if result.steps:
        console.print(
            f"Highest clean rate: {result.clean} frames/s, {result.clean_ratio} x that of pvapy's HDF5 consumer ({result.clean_pvapy});"
            f" {result.frames_ratio} of what a bare p4p monitor receives."
            f" {result.held} frames/s were held for {result.hold_s:g} s ({result.held_mb_per_s} MB/s), {result.held_missed} missed;"
            f" by pvapy's consumer {result.held_pvapy}, {result.held_missed_pvapy} missed."
        )
        for rate, found in result.steps.items():
            told = (f"{name} {each['rate']:.0f}/s, missed {each['missed']}" for name, each in found.items())
            console.print(f"{rate:>5} offered: " + "  ".join(told))
    both = ("CA", result.ca, result.ca_ratio, result.ca_per_core), ("PVA", result.pva, result.pva_ratio, result.pva_per_core)
    for name, figures, ratio, per_core in both:
        if figures:
            console.print(
                f"{name}: {result.offered:,} updates/s offered, {figures['agent']:,.0f} durable, {ratio} of a bare client's"
                f" {figures['bare']:,.0f}; for each core {per_core}"
            )
    console.print(result.machine)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.epics", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each way at each rate")
    parser.add_argument("--hold", type=float, default=60.0, help="for how long the highest clean rate is held")
    parser.add_argument("--rates", type=lambda text: [int(n) for n in text.split(",")], default=list(RATES), help="frames/s, rising")
    parser.add_argument("--data", choices=("poisson", "noise"), default="poisson")
    parser.add_argument("--pvs", type=int, default=200, help="records that change a hundred times a second")
    parser.add_argument("--rounds", type=int, default=3, help="of the scalars")
    parser.add_argument("--no-frames", action="store_true")
    parser.add_argument("--no-scalars", action="store_true")
    parser.add_argument("--dir", default=None, help="a folder on the disk to measure on")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    console = Console(stderr=True, quiet=options.json)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder, console.status("") as status:
        return answer(lambda: measure(options, Path(folder), status.update), show, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
