"""Power failures of a real file system on a recorded block device; see `power`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.needs("root", "mkfs.ext4")


def disks(folder: Path, n: int, rounds: int) -> dict[str, Any]:
    command = ["unshare", "--mount", sys.executable, "-m", "tests.torture.power", str(folder), "--images", str(n), "--rounds", str(rounds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["images"] == n
    assert result["flushes"] > rounds
    return result


def test_disks_as_a_power_failure_leaves_them_hold_all_that_was_durable(tmp_path: Path) -> None:
    disks(tmp_path, 50, 25)


@pytest.mark.slow(450)
@pytest.mark.timeout(900)
def test_a_thousand_disks_as_a_power_failure_leaves_them_hold_all_that_was_durable(tmp_path: Path) -> None:
    disks(tmp_path, 1000, 80)
