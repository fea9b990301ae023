"""Faults and ends at every call of a reference run; see `traced`."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MEMORY = Path("/dev/shm")
"""The errors are the system's whatever the disk, and nothing here asks what a disk keeps: in memory a sync costs nothing."""
SECONDS = 300.0
"""For what is not HDF5's own writes this is enough on two free cores, and for a part of these; `make torture` meets them all."""


def sweep(folder: Path, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.torture.traced", str(folder), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.slow(310)
@pytest.mark.needs("strace")
@pytest.mark.timeout(3600)
def test_calls_of_a_reference_run_fail_or_are_the_last_and_nothing_durable_is_lost() -> None:
    """A third of the cases each day, as many as fit; with ``EDGE_AGENT_TURN=all`` every call with every fault, however long that takes."""
    turn = os.environ.get("EDGE_AGENT_TURN", str(dt.datetime.now(dt.UTC).toordinal() % 3))
    limits = () if turn == "all" else ("--turn", turn, "--seconds", str(SECONDS))
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        result = sweep(Path(folder) / "sweep", *limits)
    assert result["calls"] > 800, result
    assert result["met"] > 100, result
    assert len(result["unmet"]) <= result["met"] // 20, "a call that a run does not make again cannot be met"
    if turn == "all":
        assert result["met"] + len(result["unmet"]) == result["cases"], result
