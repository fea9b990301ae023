"""What an agent costs that has nothing to do: ``python -m benchmarks.idle [--seconds N] [--json]``.

Starts ``edge-agent run`` with one adapter that watches an empty folder, and reads its processor time and memory from the system.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.harness import ROOT, Impossible, answer, machine

CONFIG = """\
site = "bench"
spool = {{ dir = "{folder}/spool", keep_free = "1 MB" }}
[instrument.microscope]
adapter = "files"
folder = "{folder}/watched"
[target.space]
folder = "{folder}/space"
"""


@dataclass(frozen=True, slots=True)
class Result:
    """Percent of one core, and resident MB."""

    core_percent: float
    rss_mb: float
    seconds: float
    machine: str
    command: str


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(seconds: float) -> Result:
    """Run one, leave it alone, look.

    Raises:
        Impossible: it did not start.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("watched", "space"):
            (folder / name).mkdir()
        (folder / "agent.toml").write_text(CONFIG.format(folder=folder))
        command = [sys.executable, "-m", "edge_agent.cli", "run", "--config", str(folder / "agent.toml")]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise Impossible("the agent did not start")
            time.sleep(5.0)  # what only happens once after a start
            before, began = _cpu(process.pid), time.monotonic()
            time.sleep(seconds)
            used = (_cpu(process.pid) - before) / (time.monotonic() - began)
            status = Path(f"/proc/{process.pid}/status").read_text()
            resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
            process.terminate()
    repeat = f"python -m benchmarks.idle --seconds {seconds:g} --json"
    return Result(round(100 * used, 2), round(resident * 1024 / 1e6, 1), seconds, machine(), repeat)


def show(result: Result) -> None:
    """One sentence."""
    Console().print(f"An idle agent takes {result.core_percent:.2f} % of a core and {result.rss_mb:.0f} MB.")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    return answer(lambda: measure(asked.seconds), show, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
