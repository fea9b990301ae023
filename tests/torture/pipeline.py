"""Kills the agent again and again while simulated instruments measure and a landing service takes, then judges what landed. A program.

    python -m tests.torture.pipeline DIR --kills 300 [--seed N]

Five instruments and the landing service run through; the agent is killed with SIGKILL at random moments, many of them while it starts and
recovers, some while the run is closed and its papers are made. One spool bears all the kills. In the end everything lands, and each stream is
compared with the truth file of its instrument: `edge_agent.demo.judge`. Prints one JSON object; exit code 0: nothing durable was lost, no
byte was altered, no gap is silent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.demo import play as demo
from edge_agent.demo.play import Result
from edge_agent.demo.process import python
from edge_agent.demo.stage import PROJECT, SITE, Stage
from edge_agent.errors import EdgeAgentError
from edge_agent.local_api import ask

READY = 60.0
LANDING = 120.0


@dataclass
class Agents:
    """The nursery, and the one agent that lives; stands where the stage has its agent."""

    config: Path
    log: Path
    environment: dict[str, str]
    pid: int = 0
    is_ready: bool = False
    said: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        with self.log.open("ab") as errors:
            self.nursery = subprocess.Popen(
                python("tests.torture.nursery", str(self.config)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                env=os.environ | self.environment,
            )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.nursery.stdout is not None
        for line in self.nursery.stdout:
            self.said.put(json.loads(line))

    def wait_for(self, key: str) -> dict[str, Any]:
        deadline = time.monotonic() + READY
        while time.monotonic() < deadline:
            said = self.said.get(timeout=READY)
            if key in said:
                return said
        raise EdgeAgentError(f"the agent did not say {key}", try_=f"read {self.log}")

    def ready(self) -> None:
        """Wait until the agent that lives is ready."""
        if not self.is_ready:
            self.wait_for("ready")
            self.is_ready = True

    def begin(self) -> None:
        assert self.nursery.stdin is not None
        while not self.said.empty():
            self.said.get()
        self.nursery.stdin.write(b"\n")
        self.nursery.stdin.flush()
        self.pid, self.is_ready = int(self.wait_for("pid")["pid"]), False

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        # It is gone when its memory is: only then its lock on the spool is free.
        while self._lives():
            time.sleep(0.005)
        self.pid = 0

    def stop(self) -> None:
        """Everything, at the end; the stage calls this."""
        if self.pid:
            self.kill()
        self.nursery.kill()
        self.nursery.wait()

    def _lives(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


async def torture(stage: Stage, kills: int, chance: random.Random, seconds: float) -> tuple[Result, dict[str, int]]:
    """Kill so many times, or for so long; the verdict and what was met."""
    met = {"while starting": 0, "while measuring": 0, "while closing": 0}
    environment = dict(stage.devices["ioc"].ready["env"]) | dict(stage.devices["camera"].ready["env"])
    agents = Agents(stage.config, stage.logs / "agent.log", {k: v for k, v in environment.items() if "REPEATER" in k})
    stage.agent = agents  # type: ignore[assignment]
    agents.begin()
    agents.ready()
    await demo._until(stage, "connecting", demo.CONNECT, lambda *_: None, demo._connected)
    session = {"project": PROJECT, "group": SITE, "user": "Demo Researcher", "sample": "demo sample"}
    await ask(stage.spool, "POST", "/session/start", session)
    for device in stage.devices.values():
        await asyncio.to_thread(device.go)
    closing = max(1, kills // 10)
    began = time.monotonic()
    while sum(met.values()) < kills - closing and time.monotonic() - began < seconds:
        await asyncio.to_thread(_one_life, agents, chance, met)
    await asyncio.to_thread(agents.ready)
    # The last word of each instrument tells how much was lost before it.
    await demo._until(stage, "measuring", demo.CONNECT, lambda *_: None, _all_measure)
    sent = {name: await asyncio.to_thread(device.stop) for name, device in stage.devices.items()}
    await demo._drain(stage, sent, lambda *_: None)
    stopping = asyncio.create_task(ask(stage.spool, "POST", "/session/stop", {"group": SITE, "outcome": "complete"}))
    # A PVA server tells its last frame again to whoever connects: no run that is open may meet it, or the frame is in it twice.
    await demo._until(stage, "closing", demo.CONNECT, lambda *_: None, _no_run_is_open)
    for _ in range(closing):
        await asyncio.sleep(chance.uniform(0.0, 0.5))
        agents.kill()
        met["while closing"] += 1
        agents.begin()
        if chance.random() < 0.5:
            await asyncio.to_thread(agents.ready)
    await asyncio.to_thread(agents.ready)
    with contextlib.suppress(EdgeAgentError):
        # Its agent may have been killed while it answered.
        await stopping
    return await _result(stage, sent), met


def _no_run_is_open(status: dict[str, Any]) -> str:
    return ", ".join(run["name"] for run in status["runs"] if run["stage"] == "open")


def _all_measure(status: dict[str, Any]) -> str:
    """Which instruments have not given anything to the agent that lives."""
    given = {s["name"] for i in status["instruments"] for s in i["streams"] if s["items"]}
    return ", ".join(row.key for row in demo.ROWS if row.key not in given and row.device != "vendor")


def _one_life(agents: Agents, chance: random.Random, met: dict[str, int]) -> None:
    """Kill the agent that lives at some moment, and begin another."""
    if chance.random() < 0.5:
        agents.ready()
        time.sleep(chance.uniform(0.0, 1.0))
    else:
        time.sleep(chance.uniform(0.0, 0.6))
    met["while measuring" if agents.is_ready else "while starting"] += 1
    agents.kill()
    agents.begin()


async def _result(stage: Stage, sent: dict[str, dict[str, int]]) -> Result:
    def landed(status: dict[str, Any]) -> str:
        # Instruments that tell their last values again have begun another day's run by now.
        return demo._landed(status | {"runs": [run for run in status["runs"] if run["stage"] != "open"]})

    status = await demo._until(stage, "landing", LANDING, lambda *_: None, landed)
    stage.recovered.append("")
    return await asyncio.to_thread(demo._result, stage, sent, status, True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop killing after so long")
    options = parser.parse_args()
    seed = random.randrange(2**32) if options.seed is None else options.seed
    stage = Stage(options.folder, "https", seed % 1000)
    try:
        stage.set()
        result, met = asyncio.run(torture(stage, options.kills, random.Random(seed), options.seconds))
    finally:
        stage.take_down()
    print(json.dumps({"seed": seed, "kills": sum(met.values()), "met": met, **result.to_json()}))
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
