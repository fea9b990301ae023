"""Ways in turn: each in a process of its own, so that no way pays for another's imports, and none keeps the machine's state to itself."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from rich.console import Console

R = TypeVar("R")
ROOT = Path(__file__).parents[1]
PATIENCE = 300
"""Seconds that one measurement may take."""


class Impossible(Exception):
    """It cannot be measured; the text says why."""


def in_turn(module: str, ways: Mapping[str, Sequence[str]], rounds: int, *, quiet: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Run ``python -m module way arguments...`` for every way, ``rounds`` times over; what each printed as one JSON line.

    Raises:
        Impossible: a way failed.
    """
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    console = Console(stderr=True, quiet=quiet)
    with console.status("") as status:
        for turn in range(rounds):
            for way, arguments in ways.items():
                status.update(f"round {turn + 1} of {rounds}: {way}")
                found[way].append(one(module, way, arguments))
    return found


def one(module: str, way: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run ``python -m module way arguments...``; what it printed as one JSON line.

    Raises:
        Impossible: it failed.
    """
    return printed([sys.executable, "-m", module, way, *arguments])


def printed(command: Sequence[str]) -> dict[str, Any]:
    """Run a command that prints one JSON object, alone or on its last line.

    Raises:
        Impossible: it failed, takes longer than `PATIENCE`, or printed something else.
    """
    name = " ".join(command[1:])
    try:
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise Impossible(f"{name} did not end within {PATIENCE} s") from error
    if done.returncode != 0:
        raise Impossible(f"{name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    try:
        text = done.stdout.strip()
        result: dict[str, Any] = json.loads(text if text.startswith("{") else text.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise Impossible(f"{name} printed no result: {done.stdout[-2000:]}") from error
    return result


def answer(measure: Callable[[], R], show: Callable[[R], None], *, as_json: bool) -> int:
    """Measure and print, for people or as one JSON object; the exit code."""
    try:
        result = measure()
    except Impossible as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps(asdict(result)))
    else:
        show(result)
    return 0


def middle(results: Sequence[Mapping[str, Any]], key: str) -> float:
    """Median over the rounds."""
    return float(median(result[key] for result in results))


def ratio(results: Mapping[str, Sequence[Mapping[str, Any]]], way: str, other: str, key: str = "mb_per_s") -> float:
    """Median of the ratios of each round: neighbours in time, so what slows the machine slows both."""
    return float(median(a[key] / b[key] for a, b in zip(results[way], results[other], strict=True)))


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    # Where there is no /proc: this also counts what the parent had when it started the process.
    return high_water_mb("self") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def high_water_mb(pid: int | str) -> float:
    """Largest resident memory of a process since its program began, in MB; 0 when it is gone."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024 / 1e6
    return 0.0


def machine() -> str:
    """What was measured on, in one line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores ({model}), {platform.system()} {platform.release()}, Python {platform.python_version()}"
