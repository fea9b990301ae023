"""A start on a full spool: it looks at no segment, and what it does for each of them is little. In work, because times are the machine's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.startup import configure, fill

ROOT = Path(__file__).parents[2]
RUNS = 20
CALLS = 60
"""Python and C calls for a segment: a leaf, its frame, its node. A segment that is parsed costs more than a hundred."""


def started(folder: Path, segments: int) -> dict[str, Any]:
    """What a start did on a spool with so many segments."""
    folder.mkdir()
    config = configure(folder)
    fill(config, segments, RUNS)
    command = [sys.executable, "-m", "tests.agent.startup_child", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_start_opens_no_segment_and_does_little_for_each_that_waits(tmp_path: Path) -> None:
    few, many = started(tmp_path / "few", 200), started(tmp_path / "many", 1000)
    assert len(few["opened"]) == len(many["opened"])
    assert not [path for path in many["opened"] if path.startswith(("runs/", "book/segment", "quarantine/"))]
    assert few["listed"] == many["listed"] <= RUNS + 10
    assert many["calls"] - few["calls"] <= CALLS * 800


def test_an_agent_loads_the_client_of_no_protocol_and_no_target_that_it_is_not_told_of(tmp_path: Path) -> None:
    clients = ("asyncua", "p4p", "caproto", "serial", "aioboto3", "aiobotocore", "boto3", "botocore", "paho", "aiomqtt", "pyrage")
    program = (
        "import asyncio, sys; from pathlib import Path; from benchmarks.startup import begin\n"
        "async def main():\n    await (await begin(Path(sys.argv[1]))).stop()\n"
        f"asyncio.run(main()); print(sorted({{*{clients}}} & {{*sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(configure(tmp_path))], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
