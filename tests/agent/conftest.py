"""Daemons: in this process with a driven adapter, and as `edge-agent run` in their own; a landing service with switches for both."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import pytest
from aiohttp import web

from edge_agent.agent.agent import Agent
from edge_agent.config.adapters import _installed
from edge_agent.config.loading import load
from edge_agent.enrolment import enrol
from edge_agent.local_api import ask
from edge_agent.model import utc_now_ns
from edge_agent.segment import peek
from firmware_sim.loopback import hold_port
from landing import authority
from landing.enrol import issue_token
from landing.home import Home, Settings
from landing.https import server_context
from landing.judge import WorkerJudge
from landing.places import open_catalogue
from landing.room import Limits
from landing.serve import Service, assemble

ROOT = Path(__file__).parents[2]

ADAPTERS = '''\
"""Adapters that another package provides: one is driven by the test, one counts by itself."""

import asyncio
import time

import numpy as np

from edge_agent.adapter import AdapterConfig
from edge_agent.model import Block, Frame, Kind, Stream

SINKS = {}


class Driven:
    class Config(AdapterConfig):
        behaviour: str = "wait"
        """What it does: wait, raise, cancel or stubborn."""

    def __init__(self, instrument, config):
        self.instrument, self.config = instrument, config

    async def preview(self):
        return []

    async def run(self, sink):
        SINKS[self.instrument] = sink
        sink.connected("driven://1")
        if self.config.behaviour == "raise":
            raise RuntimeError("it never works")
        if self.config.behaviour == "cancel":
            raise asyncio.CancelledError
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if self.config.behaviour != "stubborn":
                    raise


class Counting:
    class Config(AdapterConfig):
        every: float = 0.005
        """Seconds between two items."""
        breaks: int = 0
        """After how many items it fails, 0 for never."""

    def __init__(self, instrument, config):
        self.instrument, self.config = instrument, config

    async def preview(self):
        return []

    async def run(self, sink):
        sink.connected("counting://1")
        images = sink.open(Stream(self.instrument, "image", Kind.FRAMES, "<u2", (64, 64), counted=True))
        rows = sink.open(Stream(self.instrument, "number", Kind.ROWS, "<f8"))
        number = 0
        while True:
            now = time.time_ns()
            images.offer(Frame(np.full((64, 64), number % 60000, "<u2"), number, now, now))
            times = np.array([now])
            await rows.put(Block(np.array([float(number)]), times, times))
            number += 1
            if number == self.config.breaks:
                raise RuntimeError("it broke")
            await asyncio.sleep(self.config.every)
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an installed package that provides the adapters "driven" and "counting"."""
    folder = tmp_path / "packages"
    info = folder / "driven-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "driven_adapters.py").write_text(ADAPTERS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: driven\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edge_agent.adapters]\ndriven = driven_adapters:Driven\ncounting = driven_adapters:Counting\n")
    monkeypatch.syspath_prepend(str(folder))
    _installed.cache_clear()
    yield folder
    _installed.cache_clear()
    sys.modules.pop("driven_adapters", None)


@pytest.fixture
def adapters(package: Path) -> ModuleType:
    """The module of the driven adapters; ``SINKS[instrument]`` is the sink of a running one."""
    return importlib.import_module("driven_adapters")


@pytest.fixture
def configure(tmp_path: Path, package: Path) -> Callable[..., Path]:
    """``configure(instruments, targets, head)`` writes a configuration; without targets: one folder."""

    def write(instruments: str, targets: str = "", head: str = "") -> Path:
        (tmp_path / "space").mkdir(exist_ok=True)
        file = tmp_path / "agent.toml"
        targets = targets or f'[target.disk]\nfolder = "{tmp_path / "space"}"\n'
        spool = f'spool = {{ dir = "{tmp_path / "spool"}", keep_free = "1 MB" }}'
        file.write_text(f'site = "BL05"\ntimezone = "Asia/Tokyo"\n{spool}\n{head}\n{instruments}\n{targets}')
        return file

    return write


@pytest.fixture
async def start(adapters: ModuleType) -> AsyncIterator[Callable[..., Awaitable[Agent]]]:
    """``await start(file)``: a daemon in this process."""
    running: list[Agent] = []

    async def begin(file: Path, **more: Any) -> Agent:
        agent = Agent(load(file), **more)
        await agent.start()
        running.append(agent)
        return agent

    yield begin
    for agent in running:
        if not agent.stopping:
            await agent.stop()


async def _until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            found = await found if asyncio.iscoroutine(found) else found
            if found:
                return found
            await asyncio.sleep(0.02)


@pytest.fixture
def until() -> Callable[..., Awaitable[Any]]:
    """``await until(condition)``: what the condition (a function or coroutine function) gives when it is true."""
    return _until


@dataclass
class Daemon:
    """``edge-agent run`` as a process; ``ready`` is its ready line."""

    process: subprocess.Popen[str]
    spool: Path
    log: Path
    ready: dict[str, Any] = field(default_factory=dict)

    async def ask(self, path: str = "/status", method: str = "GET", **body: str) -> Any:
        return await ask(self.spool, method, path, body if method == "POST" else None)

    async def totals(self) -> dict[str, dict[str, Any]]:
        status = await self.ask()
        return {s["name"]: s["totals"] for i in status["instruments"] for s in i["streams"]}

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, 30)

    def text(self) -> str:
        return self.log.read_text()


@pytest.fixture
async def run(tmp_path: Path, package: Path) -> AsyncIterator[Callable[..., Awaitable[Daemon]]]:
    """``await run(file)``: a daemon as a process, ready; ``ready=False``: whatever it does."""
    daemons: list[Daemon] = []

    async def begin(file: Path, *, ready: bool = True, env: dict[str, str] | None = None) -> Daemon:
        log = tmp_path / f"agent-{len(daemons)}.log"
        environment = {**os.environ, "PYTHONPATH": str(package), "EDGE_AGENT_LANG": "en", **(env or {})}
        with log.open("w") as errors:
            command = [sys.executable, "-m", "edge_agent.cli", "run", "--config", str(file)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=environment)
        daemon = Daemon(process, tmp_path / "spool", log)
        daemons.append(daemon)
        if ready:
            assert process.stdout is not None
            line = await asyncio.to_thread(process.stdout.readline)
            assert line, log.read_text()
            daemon.ready = json.loads(line)
        return daemon

    yield begin
    for daemon in daemons:
        if daemon.process.poll() is None:
            daemon.process.kill()
        daemon.process.wait()
        assert daemon.process.stdout is not None
        daemon.process.stdout.close()


@dataclass
class Landing:
    """A landing service in this process. ``trouble``: it answers 500; ``pretend``: the folder whose keys it shows instead of its own."""

    home: Home
    service: Service | None = None
    runner: web.AppRunner | None = None
    listening: socket.socket | None = None
    url: str = ""
    port: int = 0
    trouble: bool = False
    refused: int = 0

    async def open(self, tls: Path | None = None) -> None:
        """Begin to serve, at the same port as before; ``tls``: a folder with another TLS key and certificate."""
        self.service = assemble(self.home, Limits(keep_free=0), WorkerJudge(self.home.root))
        app = self.service.door.app()
        app.middlewares.insert(0, self._trouble)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self.runner.setup()
        keys = tls or self.home.keys
        context = server_context(str(keys / "tls.pem"), str(keys / "tls.key"), str(self.home.root))
        self.port = self.port or hold_port()
        self.listening = socket.create_server(("127.0.0.1", self.port))
        await web.SockSite(self.runner, self.listening, ssl_context=context).start()
        self.url = f"https://127.0.0.1:{self.port}"

    async def close(self) -> None:
        if self.runner is not None and self.service is not None and self.listening is not None:
            # Until Python 3.12, asyncio loses a connection that it accepted in the moment in which its server is closed.
            asyncio.get_running_loop().remove_reader(self.listening)
            await asyncio.sleep(0)
            await self.runner.cleanup()
            await self.service.close()
            self.runner = self.service = None

    def space(self) -> dict[str, bytes]:
        """The files in the project spaces."""
        return {str(p.relative_to(self.home.space)): p.read_bytes() for p in self.home.space.rglob("*") if p.is_file()}

    async def enrol(self, keys: Path) -> None:
        ca = authority.load(self.home)
        with contextlib.closing(open_catalogue(self.home)) as catalogue:
            token = issue_token(catalogue, ca.root_der, self.url, ("p", "unclaimed"), utc_now_ns())
        await enrol(keys, token, "test")

    @web.middleware
    async def _trouble(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.trouble:
            self.refused += 1
            return web.Response(status=500, text="the storage is gone")
        answer: web.StreamResponse = await handler(request)
        return answer


def make_home(path: Path) -> Home:
    home, settings = Home(path), Settings(name="Test landing")
    home.create(settings)
    authority.create(home, settings)
    open_catalogue(home).close()
    return home


@pytest.fixture
def new_home() -> Callable[[Path], Home]:
    """``new_home(path)``: the folder of another landing service, with its own authority and keys."""
    return make_home


@pytest.fixture
async def landing(tmp_path: Path) -> AsyncIterator[Landing]:
    """A landing service that runs, at which the agent's keys are enrolled."""
    made = Landing(make_home(tmp_path / "landing"))
    await made.open()
    await made.enrol(tmp_path / "spool" / "keys")
    yield made
    await made.close()


@dataclass
class Landed:
    """One stream over all segments below a folder, in order of their names."""

    columns: dict[str, list[Any]] = field(default_factory=dict)
    gaps: list[tuple[int, int, int, str]] = field(default_factory=list)

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[name]


def _read_space(space: Path) -> dict[str, Landed]:
    # Without hdf5plugin: it would change the filters of this process, which records.
    found: dict[str, Landed] = {}
    for path in sorted([*space.rglob("*.h5"), *space.rglob("*.nxs")]):
        with h5py.File(path, "r") as file:
            if "entry/integrity" not in file:
                continue
            streams = {group.name: dict(group.attrs) for device in file["entry/instrument"].values() for group in _groups(device)}
            for name, attributes in streams.items():
                landed = found.setdefault(str(attributes["source_id"]), Landed())
                gaps = [file[f"{name}/gaps/{column}"][()].tolist() for column in ("first", "last", "count")]
                causes = [c.decode() for c in file[f"{name}/gaps/cause"][()].tolist()]
                landed.gaps += list(zip(*gaps, causes, strict=True))
                names = [
                    column for column, node in file[name].items() if isinstance(node, h5py.Dataset) and node.chunks and column != "data"
                ]
                for column in names:
                    landed.columns.setdefault(column, []).extend(peek.rows(path, f"{name}/{column}").tolist())
            if "entry/tags" in file:
                _read_tags(path, file["entry/tags"], found)
    return found


def _read_tags(path: Path, tags: h5py.Group, found: dict[str, Landed]) -> None:
    for number, (key, name) in enumerate(zip(tags["source_id"].asstr()[()], tags["table"].asstr()[()], strict=True)):
        mine = peek.rows(path, f"entry/tags/{name}/tag") == number
        for column in tags[name]:
            rows = peek.rows(path, f"entry/tags/{name}/{column}")[mine]
            found.setdefault(key, Landed()).columns.setdefault(column, []).extend(rows.tolist())
    gaps = [tags[f"gaps/{column}"][()].tolist() for column in ("first", "last", "count")]
    texts = [tags[f"gaps/{column}"].asstr()[()] for column in ("cause", "source_id")]
    for *gap, key in zip(*gaps, *texts, strict=True):
        found[key].gaps.append(tuple(gap))


def _groups(device: Any) -> list[Any]:
    return [g for g in device.values() if isinstance(g, h5py.Group) and "source_id" in g.attrs] if isinstance(device, h5py.Group) else []


@pytest.fixture
def read_space() -> Callable[[Path], dict[str, Landed]]:
    """``read_space(folder)[stream]["frame_number"]``: what landed, by stream key and column."""
    return _read_space
