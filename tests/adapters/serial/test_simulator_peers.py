"""Devices on the third-party simulator sinstruments: framed binary answers and IEEE 488.2 blocks, over its pty and over TCP."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.testing import Described, Opened
from edge_agent.model import Cause
from firmware_sim.loopback import hold_port
from tests.environments import environment

pytestmark = pytest.mark.peers

Run = Callable[..., Any]
Start = Callable[..., subprocess.Popen[bytes]]
DEVICE = Path(__file__).with_name("device_of_sinstruments.py")
FRAME = {"start": "STX", "stop": "ETX", "check": {"kind": "xor8", "after_stop": True}}


@pytest.fixture(params=["pty", pytest.param("tcp", marks=pytest.mark.slow)])
def simulate(request: pytest.FixtureRequest, start: Start, tmp_path: Path) -> Callable[[str], str]:
    """``simulate("Pump")`` starts a device of `DEVICE`; gives the port to open. It is GPL and only ever run, never imported."""

    def make(kind: str) -> str:
        shutil.copy(DEVICE, tmp_path / "bench_devices.py")
        port = hold_port()
        link = tmp_path / "links" / kind
        transport = {"type": "serial", "url": str(link)} if request.param == "pty" else {"type": "tcp", "url": ["127.0.0.1", port]}
        devices = [{"class": kind, "package": "bench_devices", "name": kind, "transports": [transport]}]
        (tmp_path / "bench.json").write_text(json.dumps({"devices": devices}))
        programs = environment("sinstruments", "sinstruments==1.5.0")
        start("env", f"PYTHONPATH={tmp_path}", programs / "python", "-m", "sinstruments", "-c", tmp_path / "bench.json")
        return str(link) if request.param == "pty" else f"socket://127.0.0.1:{port}"

    return make


async def test_a_framed_pump_is_asked_and_a_wrong_check_costs_one_answer(simulate: Callable[[str], str], run: Run) -> None:
    one = await run(
        simulate("Pump"), frame=FRAME, command="P?", every="20 ms", timeout="500 ms", parse="P={p:float} {unit:word}", wait=False
    )
    await one.sink.until(lambda s: len(s.values("p")) >= 40)
    halves = (one.sink.values("p") * 2).astype(int).tolist()
    assert [number for number in range(1, halves[-1] + 1) if number not in halves] == list(range(10, halves[-1] + 1, 10))
    gaps = [gap for gap in one.sink.gaps("p") if gap.cause is Cause.GARBAGE]
    assert sum(gap.count or 0 for gap in gaps) == halves[-1] // 10
    assert "xor8 is" in gaps[0].detail
    assert one.sink.of(Opened)[0].stream.unit == "mbar"


@pytest.mark.slow
async def test_spectra_of_a_scpi_instrument_arrive_whole(simulate: Callable[[str], str], run: Run) -> None:
    one = await run(
        simulate("Spectrometer"), profile="scpi", command="CURV?", every="20 ms", parse="{spectrum:block}",
        channels={"spectrum": {"dtype": ">u2", "unit": "count"}}, wait=False,
    )  # fmt: skip
    await one.sink.until(lambda s: sum(map(len, s.blocks("spectrum"))) >= 40)
    spectra = one.sink.values("spectrum")
    assert spectra.shape[1] == 64
    assert (np.diff(spectra[:, 0].astype(int)) == 1).all()
    assert (spectra[:, 1:] == np.arange(0x0A00, 0x0A3F)).all()
    assert one.sink.gaps("spectrum") == []
    assert one.sink.of(Described)[0].facts["model"] == "Spectrometer"
