"""Writes ``docs/performance.md`` and its picture (dependency group "bench").

``python -m benchmarks.report [--seconds N] [--rounds N] [--minutes N]`` measures every data set once, then everything else, then the data
sets again while there is time. A part that fails, or for which no time is left, is told on the page, and the others go on; the exit code
is then 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from benchmarks import capture, profile
from benchmarks.harness import machine, printed
from benchmarks.page import PAGE, Measured, page, plot

T = TypeVar("T")
SETS = (("eiger", 1), ("sparse", 1), ("strong", 1), ("noise", 1), ("eiger", 4))
QUICK = 0.3
"""Of ``--seconds``: the ways and the parts whose figures do not depend on how long they run."""


class Report:
    """Measures part by part; what fails is noted by its name."""

    def __init__(self, seconds: float, minutes: float) -> None:
        """Nothing is measured yet; the time runs."""
        self.seconds = seconds
        self.quick = max(1.0, QUICK * seconds)
        self.rounds: list[list[capture.Found]] = [[] for _ in SETS]
        self.failed: dict[str, str] = {}
        self.console = Console(stderr=True)
        self.load = os.getloadavg()[0]
        self._longest = 0.0
        self._ends = time.monotonic() + 60 * minutes

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._ends - time.monotonic()

    def round(self, number: int) -> None:
        """Every data set once, as far as the time goes."""
        for (data, streams), found in zip(SETS, self.rounds, strict=True):
            if number and self.left < self._longest:
                return
            began = time.monotonic()
            once = partial(capture.once, data, self.seconds, self.quick, streams, None, backwards=bool(number % 2), quiet=False)
            made = self._try(f"frames, {data} x {streams}, round {number + 1}", once)
            if made is not None:
                found.append(made)
            self._longest = max(self._longest, time.monotonic() - began)

    def rest(self) -> dict[str, Any]:
        """The other benchmarks, by name."""
        parts: dict[str, Sequence[str]] = {
            "latency": ["--seconds", f"{0.8 * self.seconds:g}", "--rounds", "2"],
            "verify": ["--mb", f"{250 * self.seconds:g}", "--rounds", "3"],
            "rows": ["--seconds", f"{0.7 * self.seconds:g}"],
            "idle": ["--seconds", f"{1.5 * self.seconds:g}"],
            "startup": ["--segments", f"{min(100_000, 10_000 * self.seconds):.0f}", *(["--cold"] if os.geteuid() == 0 else [])],
        }
        made = {name: self._try(name, partial(_run, name, options)) for name, options in parts.items()}
        return {name: found for name, found in made.items() if found is not None}

    def profiles(self) -> list[profile.Result]:
        """Where the time goes, by data set."""
        made = [self._try(f"profile, {data} x {n}", partial(profile.measure, data, self.quick, n, None)) for data, n in SETS]
        return [found for found in made if found is not None]

    def frames(self) -> list[capture.Result]:
        """What the rounds say, by data set."""
        return [
            capture.result(data, self.seconds, self.quick, streams, found)
            for (data, streams), found in zip(SETS, self.rounds, strict=True)
            if found
        ]

    def _try(self, name: str, measure: Callable[[], T]) -> T | None:
        self.console.print(f"{name} ({self.left / 60:.1f} minutes left)")
        if self.left <= 0:
            self.failed[name] = "no time was left"
            return None
        try:
            return measure()
        except Exception as error:
            # Whatever it is: the page says what is missing, and has the rest.
            self.failed[name] = str(error) or type(error).__name__
            self.console.print(f"{name} could not be measured: {error}")
            return None


def _run(name: str, options: Sequence[str]) -> dict[str, Any]:
    return printed([sys.executable, "-m", f"benchmarks.{name}", *options, "--json"])


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of the agent, the limit and the codec in each round; the rest is shorter"
    )
    parser.add_argument("--rounds", type=int, default=3, help="at most")
    parser.add_argument("--minutes", type=float, default=13.2, help="in which the last part has to begin")
    asked = parser.parse_args()
    report = Report(asked.seconds, asked.minutes)
    report.round(0)
    rest, profiles = report.rest(), report.profiles()
    for number in range(1, asked.rounds):
        if report.left > 0:
            report.round(number)
    measured = Measured(report.frames(), profiles, rest, report.failed, report.load)
    plot(measured)
    PAGE.write_text(page(measured, machine()))
    report.console.print(f"written: {Path('docs') / PAGE.name}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
