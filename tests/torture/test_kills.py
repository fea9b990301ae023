"""SIGKILL at random moments of the full pipeline; see `pipeline` for what one kill covers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SLOW_SECONDS = 420.0


def torture(folder: Path, kills: int, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.torture.pipeline", str(folder), "--kills", str(kills), "--seconds", str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    log = folder / "logs" / "agent.log"
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}\n{log.read_text()[-3000:] if log.exists() else ''}"
    result: dict[str, Any] = json.loads(done.stdout)
    verifier = [sys.executable, str(ROOT / "tools/verify_hsc1.py"), "--level", "3", "--root", result["root"], str(folder / "space")]
    checked = subprocess.run(verifier, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    for stream in result["streams"]:
        assert stream["same_as_source"], stream
        assert stream["landed"] + stream["lost"] == stream["sent"], stream
    return result


@pytest.mark.timeout(600)
def test_ten_kills_of_the_full_pipeline_lose_nothing_durable_and_hide_no_gap(tmp_path: Path) -> None:
    result = torture(tmp_path / "torture", 10, 60.0)
    assert result["kills"] == 10


@pytest.mark.slow(360)
@pytest.mark.timeout(900)
def test_hundreds_of_kills_of_one_spool_lose_nothing_durable_and_hide_no_gap(tmp_path: Path) -> None:
    kills = int(os.environ.get("EDGE_AGENT_KILLS", "300"))
    result = torture(tmp_path / "torture", kills, SLOW_SECONDS)
    assert result["kills"] == kills, f"only {result['kills']} in {SLOW_SECONDS:g} s: the machine is too slow"
