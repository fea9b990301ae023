"""Against programs that nobody here wrote: ser2net as a device server (RFC 2217 and raw), lewis as an instrument."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.testing import Connected, Described, Disconnected, Opened
from edge_agent.model import Cause
from firmware_sim.launch import Device
from firmware_sim.loopback import hold_port
from tests.environments import environment

# pyserial's RFC 2217 client makes its thread a daemon in the way of Python 2.
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")]

Run = Callable[..., Any]
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def free_port() -> int:
    return hold_port()


@pytest.fixture
def balance(tmp_path: Path) -> Iterator[Device]:
    with Device("balance", "--rate", "50", "--count", "60", truth=tmp_path / "truth.jsonl") as device:
        yield device


@pytest.fixture(scope="session")
def lewis() -> Path:
    """It is GPL and only ever run, never imported."""
    return environment("lewis", "lewis==1.4.0") / "lewis"


def ser2net() -> str:
    found = shutil.which("ser2net", path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin")
    assert found is not None, "ser2net is missing; try: apt-get install ser2net"
    return found


def ser2net_config(folder: Path, accepter: str, device: str) -> Path:
    config = folder / "ser2net.yaml"
    config.write_text(f"connection: &balance\n  accepter: {accepter}\n  connector: serialdev,{device},9600n81,local\n")
    return config


@pytest.mark.parametrize(
    ("accepter", "url"),
    [
        ("telnet(rfc2217),tcp,127.0.0.1,{port}", "rfc2217://127.0.0.1:{port}?ign_set_control"),
        ("tcp,127.0.0.1,{port}", "socket://127.0.0.1:{port}"),
    ],
    ids=["rfc2217", "raw"],
)
async def test_a_balance_behind_ser2net_is_recorded_whole(
    start: Start, run: Run, balance: Device, free_port: int, tmp_path: Path, accepter: str, url: str
) -> None:
    start(ser2net(), "-n", "-c", ser2net_config(tmp_path, accepter.format(port=free_port), balance.ready["path"]))
    one = await run(url.format(port=free_port), profile="mettler-sics", wait=False)
    await one.sink.until(lambda s: len(s.values("mass")) >= 60, timeout=30)
    assert balance.wait_stopped() == {"mass": 60}
    sent = np.array([item.v for item in balance.read_truth().of("mass")], float)
    np.testing.assert_array_equal(one.sink.values("mass"), sent)
    assert one.sink.gaps("mass") == []
    assert one.sink.of(Described)[0].facts == {"serial_number": balance.ready["serial"]}


async def test_a_ser2net_that_is_killed_and_comes_back_is_dialled_again(
    start: Start, run: Run, balance: Device, free_port: int, tmp_path: Path
) -> None:
    config = ser2net_config(tmp_path, f"telnet(rfc2217),tcp,127.0.0.1,{free_port}", balance.ready["path"])
    first = start(ser2net(), "-n", "-c", config)
    one = await run(f"rfc2217://127.0.0.1:{free_port}?ign_set_control", profile="mettler-sics", every="50 ms", wait=False)
    await one.sink.until(lambda s: len(s.values("mass")) >= 5, timeout=30)
    first.kill()
    first.wait()
    await one.sink.until(lambda s: s.of(Disconnected) and s.of(Connected), timeout=10)
    start(ser2net(), "-n", "-c", config)
    before = len(one.sink.values("mass"))
    await one.sink.until(lambda s: len(s.values("mass")) >= before + 5, timeout=30)
    assert Cause.DISCONNECT in [gap.cause for gap in one.sink.gaps("mass")]
    assert {gap.count for gap in one.sink.gaps("mass") if gap.cause is Cause.DISCONNECT} == {None}


async def test_a_motor_of_lewis_is_asked_for_its_position_while_it_moves(start: Start, run: Run, free_port: int, lewis: Path) -> None:
    options = f"stream: {{bind_address: 127.0.0.1, port: {free_port}}}"
    start(lewis, "-k", "lewis.examples", "example_motor", "-p", options)
    one = await run(
        f"socket://127.0.0.1:{free_port}",
        on_connect=["T?", "T=3.0"],
        command="P?",
        every="100 ms",
        parse="{position:float}",
        channels={"position": {"unit": "mm"}},
        wait=False,
    )
    await one.sink.until(lambda s: 3.0 in s.values("position").tolist(), timeout=40)
    positions = one.sink.values("position").tolist()
    assert positions == sorted(positions)
    assert len(set(positions)) > 3
    assert one.sink.of(Described)[0].facts == {"T": "0.0"}
    assert {event.stream.name: event.stream.unit for event in one.sink.of(Opened)} == {"position": "mm", "garbage": ""}
    # The motor repeats "T=3.0" though nobody asked; that is no position, and it is said.
    assert [(gap.count, gap.detail[:10]) for gap in one.sink.gaps("position")] == [(1, "b'T=3.0': ")]
