"""Each call of a history of the recorder fails or is the last; see `every_call`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.record.every_call import HDF5

ROOT = Path(__file__).parents[2]


def sweep(folder: Path, *options: str) -> None:
    """Play it, and see that it failed at each call with each fault as often as it says, without a problem."""
    command = [sys.executable, "-m", "tests.record.every_call", str(folder), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    result = json.loads(done.stdout) if done.stdout else {}
    assert done.returncode == 0, "\n".join(result.get("failures", [])) + done.stderr[-3000:]
    kinds = result["calls"]
    assert {HDF5, "write", "sync_data", "sync_file", "sync_folder", "rename", "unlink", "cut"} <= set(kinds)
    assert kinds[HDF5] > 300
    assert set(result["met"].values()) == {result["sites"]}
    assert result["sites"] == sum(kinds.values()) or "--every" in options


@pytest.mark.timeout(900)
def test_every_call_of_a_short_run_fails_or_is_the_last_and_nothing_durable_is_lost(tmp_path: Path) -> None:
    """EIO, ENOSPC and the end of the power at each call, HDF5's own writes too."""
    sweep(tmp_path, "--short", "EIO", "ENOSPC", "power")


@pytest.mark.slow(80)
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("fault", ["EIO", "ENOSPC-3", "kill", "power"])
def test_every_write_sync_rename_and_unlink_of_a_reference_run_fails_or_is_the_last(tmp_path: Path, fault: str) -> None:
    """Of HDF5's own writes every third: each of them is met in the short run, and each of the system's calls in tests/torture."""
    sweep(tmp_path, "--every", "3", fault)


@pytest.mark.slow(60)
@pytest.mark.parametrize("faults", [("EIO-7", "ENOSPC"), ("ENOSPC-7",), ("kill-after", "power-after")])
def test_what_lasts_and_what_comes_after_a_call_loses_nothing_durable(tmp_path: Path, faults: tuple[str, ...]) -> None:
    """An end after a call is one before the next, but that of the next nothing is done: every tenth of HDF5's writes is enough."""
    sweep(tmp_path, "--every", "10", *faults)
