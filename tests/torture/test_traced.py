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


def sweep(folder: Path, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.torture.traced", str(folder), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.slow(400)
@pytest.mark.needs("strace")
@pytest.mark.timeout(3600)
def test_every_call_of_a_reference_run_fails_or_is_the_last_and_nothing_durable_is_lost() -> None:
    """Each call with one of the three faults, the next day with another one; with ``EDGE_AGENT_TURN=all`` with each of them."""
    turn = os.environ.get("EDGE_AGENT_TURN", str(dt.datetime.now(dt.UTC).toordinal() % 3))
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        result = sweep(Path(folder) / "sweep", *(() if turn == "all" else ("--turn", turn)))
    assert result["calls"] > 800, result
    assert result["cases"] == (result["calls"] - result["left"]) * (3 if turn == "all" else 1), result
    assert result["left"] <= (0 if turn == "all" else result["kinds"]["pwrite64"] // 2), result
    assert result["met"] + len(result["unmet"]) == result["cases"], result
    assert len(result["unmet"]) <= result["met"] // 50, f"a call that a run does not make again cannot be met: {result['unmet']}"
