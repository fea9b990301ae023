from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent.cli import main

THIRD_PARTY = '''\
"""An adapter that another package provides: it counts."""

import asyncio
import time

import numpy as np

from edge_agent.adapter import AdapterConfig
from edge_agent.errors import InstrumentUnreachable
from edge_agent.model import Block, Cause, FileItem, Frame, Gap, Kind, Stream, Reset


class CounterAdapter:
    class Config(AdapterConfig):
        every: float = 0.01
        """Seconds between two numbers."""
        unplugged: bool = False
        """Whether it answers."""
        breaks: bool = False
        """Whether it fails while it runs."""

    def __init__(self, instrument, config):
        self.config = config
        self.numbers = Stream(instrument, "numbers", Kind.ROWS, unit="mm", source_uri="counter://1")
        self.images = Stream(instrument, "images", Kind.FRAMES, "<u2", (2, 3))
        self.papers = Stream(instrument, "papers", Kind.FILES)

    async def preview(self):
        if self.config.unplugged:
            raise InstrumentUnreachable("The counter does not answer.", why="asked 1 time", try_="plug it in")
        return [self.numbers, self.images]

    async def run(self, sink):
        sink.connected("counter://1")
        sink.disconnected("counter://2", why="no such counter")
        sink.describe({"maker": "Counters Inc."})
        rows, frames = sink.open(self.numbers), sink.open(self.images)
        assert not await sink.already_adopted("a.txt", 3, 0)
        from pathlib import Path
        await sink.adopt(self.papers, FileItem(Path("a.txt"), "a.txt", 3, 1_000_000_000, 2_000_000_000))
        rows.gap(Gap(Cause.SOURCE, 1, 3, 3))
        rows.reset(Reset(Cause.RESTART, 9, 0))
        number = 0
        while True:
            now = time.time_ns()
            await rows.put(Block(np.array([float(number)]), np.array([1_700_000_000_000_000_000]), np.array([now])))
            frames.offer(Frame(np.full((2, 3), number, "<u2"), number, now, now))
            number += 1
            if self.config.breaks and number == 3:
                raise InstrumentUnreachable("The counter broke.")
            await asyncio.sleep(self.config.every)
'''


@dataclass(frozen=True)
class Ran:
    """What a command line did."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AGENT_LANG", "en")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def run(*arguments: object) -> Ran:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def start(tmp_path: Path) -> Run:
    """Run a command line in a process of its own, where a package that provides the adapter "counter" is installed."""
    package = tmp_path / "packages"
    info = package / "counter-1.0.dist-info"
    info.mkdir(parents=True)
    (package / "counter_adapter.py").write_text(THIRD_PARTY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[edge_agent.adapters]\ncounter = counter_adapter:CounterAdapter\nbroken = counter_adapter:Gone\n"
    )

    def start(*arguments: object, env: dict[str, str] | None = None) -> Ran:
        environment = {**os.environ, "PYTHONPATH": str(package), **(env or {})}
        command = [sys.executable, "-m", "edge_agent.cli", *(str(argument) for argument in arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)
        return Ran(done.returncode, done.stdout, done.stderr)

    return start
