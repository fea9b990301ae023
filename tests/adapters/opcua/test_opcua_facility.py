"""What a facility has: a laboratory device of the real nodesets, a link that is cut, a server of open62541. Slow: they install and wait."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import shutil
import subprocess
import sys
import venv
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest

from adapters.opcua import OpcUaConfig
from adapters.testing import Connected, Described, Disconnected, RecordingSink
from edge_agent.model import Cause, Valid
from firmware_sim.loopback import hold_port
from tests.adapters.opcua.node_peer import TOOLS, install

pytestmark = [pytest.mark.peers, pytest.mark.slow]

Make = Callable[..., OpcUaConfig]
O6_VERSION = "2.2.0"


class Link:
    """Forwards TCP to a server until it is cut; then it refuses until it is mended."""

    def __init__(self, endpoint: str) -> None:
        parts = urlparse(endpoint)
        self._target = (str(parts.hostname), int(parts.port or 0))
        self.port = hold_port()
        self.endpoint = f"opc.tcp://127.0.0.1:{self.port}"
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def mend(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            await self._listener.wait_closed()
            self._listener = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)
        self._open |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        sink.transport.abort()
        self._open.discard(sink)


@pytest.fixture
async def link() -> AsyncIterator[Callable[[str], Any]]:
    made: list[Link] = []

    async def make(endpoint: str) -> Link:
        made.append(Link(endpoint))
        await made[-1].mend()
        return made[-1]

    yield make
    for one in made:
        await one.cut()


async def test_a_laboratory_device_of_the_real_nodesets_is_recorded_by_its_name(
    node_server: Any, config: Make, recording: Callable[..., Any]
) -> None:
    server = node_server(lads=True)
    async with recording(config(server.endpoint, lads="Incubator", timeout="8 s"), "lab") as sink:
        await sink.until(lambda s: len(s.values("Chamber.Temperature.SensorValue")) and s.of(Described), timeout=60)
    assert sink.values("Chamber.Temperature.SensorValue").tolist() == [37.5]
    facts = {key: value for event in sink.of(Described) for key, value in event.facts.items()}
    assert facts["SerialNumber"] == "SN-77"


async def test_a_link_that_is_cut_for_seconds_loses_nothing_of_a_server_with_history(
    node_server: Any, config: Make, recording: Callable[..., Any], link: Callable[[str], Any]
) -> None:
    server = node_server(every=100, history=True)
    wire = await link(server.endpoint)
    counter = {"id": "nsu=urn:peer:node-opcua;s=Total", "name": "Total"}
    async with recording(config(wire.endpoint, nodes=[counter], timeout="2 s"), "lab") as sink:
        await sink.until(lambda s: len(s.values("Total")) > 10, timeout=40)
        await wire.cut()
        await sink.until(lambda s: len(s.of(Disconnected)) >= 3, timeout=40)
        await wire.mend()
        known = len(sink.values("Total"))
        await sink.until(lambda s: len(s.of(Connected)) == 2 and len(s.values("Total")) > known + 30, timeout=60)
    values = sink.values("Total")
    assert set(np.diff(values)) == {1}
    marks = np.concatenate([block.valid for block in sink.blocks("Total") if block.valid is not None])
    assert np.count_nonzero(marks == Valid.HISTORY) > 5
    (gap,) = sink.gaps("Total")
    assert (gap.cause, gap.count) == (Cause.DISCONNECT, 0)


async def test_an_alarm_is_recorded_with_its_states(node_server: Any, config: Make, recording: Callable[..., Any]) -> None:
    server = node_server(alarm=True)
    async with recording(config(server.endpoint, events=["i=2253"], timeout="4 s"), "lab") as sink:
        await sink.until(lambda s: sum(b"LevelHigh" in text for text in s.values("events").tolist()) > 3, timeout=30)
    events = [json.loads(text) for text in sink.values("events").tolist()]
    alarms = [event for event in events if event.get("condition") == "LevelHigh"]
    assert {event["active"] for event in alarms} == {True, False}
    assert {event["type"] for event in alarms} == {"ExclusiveLimitAlarmType"}
    assert {event["source"] for event in alarms} == {"1:Level"}
    assert any(event["acknowledged"] is False for event in alarms)


@pytest.fixture(scope="module")
def o6() -> Path:
    """The Python of an environment that has o6, made once under `.test-tools/`."""
    folder = TOOLS / "o6"
    TOOLS.mkdir(exist_ok=True)
    with open(TOOLS / "o6.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = folder / "ready.txt"
        if not ready.exists() or ready.read_text() != O6_VERSION:
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=False)
            pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "--disable-pip-version-check", "--no-input"]
            install([*pip, "install", "--quiet", f"o6=={O6_VERSION}"], folder)
            ready.write_text(O6_VERSION)
    return folder / "bin/python"


@pytest.fixture
def open62541(o6: Path, port: int) -> Iterator[str]:
    """The endpoint of a server of open62541."""
    program = [str(o6), str(Path(__file__).parent / "o6_server.py"), str(port)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert any(line == "ready\n" for line in process.stdout), "open62541 did not start"
        yield f"opc.tcp://127.0.0.1:{port}"
        process.kill()


async def test_a_server_of_open62541_is_recorded_without_a_hole(open62541: str, config: Make, recording: Callable[..., Any]) -> None:
    nodes = [{"id": "ns=1;s=Counter", "counts_by": 1}, "ns=1;s=Spectrum", "ns=1;s=Note"]

    def enough(sink: RecordingSink) -> bool:
        return len(sink.values("Counter")) > 100 and len(sink.values("Spectrum")) > 0 and len(sink.values("Note")) > 0

    async with recording(config(open62541, nodes=nodes, queue=1000), "lab") as sink:
        await sink.until(enough, timeout=60)
    assert sink.values("Spectrum")[0].tolist() == list(range(1000))
    assert sink.values("Note").tolist() == [b"open62541"]
    counts = sink.values("Counter").astype(int)
    missing = int(np.sum(np.diff(counts) - 1))
    assert missing == sum(gap.count or 0 for gap in sink.gaps("Counter")), "what its sampling left out is declared, by number"
