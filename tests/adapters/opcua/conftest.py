"""Servers to talk to: the simulated furnace, node-opcua (written by nobody here), a port that never answers, certificates."""

from __future__ import annotations

import asyncio
import datetime
import socket
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
from tests.adapters.opcua.link import Link
from tests.adapters.opcua.node_peer import NodeServer, node_program

NAMESPACE = "urn:firmware-sim:furnace"


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
async def link() -> AsyncIterator[Callable[[str], Any]]:
    """``await link(endpoint)``: a `Link` to it."""
    made: list[Link] = []

    async def make(endpoint: str) -> Link:
        made.append(Link(endpoint))
        await made[-1].mend()
        return made[-1]

    yield make
    for one in made:
        await one.cut()


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
