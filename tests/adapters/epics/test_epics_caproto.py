"""The adapter against an IOC on caproto, the one implementation of Channel Access that shares no code with EPICS Base.

caproto serves no PV Access, so it also stands for the cameras whose settings are there over Channel Access only.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from p4p.nt import NTNDArray
from p4p.server.thread import SharedPV

from adapters.testing import Connected, Described, Disconnected, Opened, RecordingSink
from edge_agent.model import Cause, Valid

pytestmark = pytest.mark.peers

StartIoc = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def caproto_ioc(program: Callable[..., subprocess.Popen[bytes]], caproto_python: Path) -> StartIoc:
    """Start it, on a port that the client knows; the same one each time."""
    return lambda: program(caproto_python, Path(__file__).with_name("caproto_ioc.py"))


def write(ioc: subprocess.Popen[bytes], *lines: str) -> None:
    assert ioc.stdin is not None
    ioc.stdin.write("".join(f"{line}\n" for line in lines).encode())
    ioc.stdin.flush()


def facts(sink: RecordingSink) -> dict[str, str | int | float]:
    """What the camera said of itself so far, the last of each."""
    found: dict[str, str | int | float] = {}
    for event in sink.of(Described):
        found |= event.facts
    return found


async def test_a_caproto_ioc_is_followed_without_a_hole(caproto_ioc: StartIoc, recording: Callable[..., Any]) -> None:
    caproto_ioc()
    names = ("COUNT", "GATE", "NAME", "WAVE", "SHORT", "CHAR")
    async with recording(pvs=[{"pv": f"ca://T:{name}", "name": name} for name in names]) as sink:
        await sink.until(
            lambda s: len(s.values("COUNT")) > 15 and s.values("COUNT")[-1] > 8 and all(len(s.values(name)) for name in names), timeout=60
        )
    streams = {event.stream.name: event.stream for event in sink.of(Opened)}
    count = streams["COUNT"]
    assert (count.dtype, count.unit, count.source_type, count.source_uri) == ("<f8", "n", "ca DOUBLE", "ca://T:COUNT")
    assert (count.attributes["precision"], count.attributes["upper_disp_limit"]) == (2, 99.0)
    assert set(np.diff(sink.values("COUNT"))) == {1.0}
    assert (streams["GATE"].attributes["state_0"], sink.values("GATE").tolist()) == ("shut", [1])
    assert sink.values("NAME").tolist() == [b"lysozyme"]
    assert (streams["WAVE"].dtype, sink.values("WAVE")[0].tolist()) == ("<f4", [1.5, 2.5, 3.5])
    assert (streams["SHORT"].dtype, sink.values("SHORT").tolist()) == ("<i2", [-7])
    assert sink.values("CHAR")[0].tobytes().rstrip(b"\0") == b"abc"
    assert not any(sink.gaps(name) for name in names)


async def test_an_alarm_of_a_caproto_ioc_is_recorded_beside_the_values(caproto_ioc: StartIoc, recording: Callable[..., Any]) -> None:
    async with recording(pvs=[{"pv": "ca://T:COUNT", "name": "COUNT"}]) as sink:
        caproto_ioc()
        await sink.until(lambda s: len(s.values("COUNT.alarm")) > 2, timeout=60)
    assert sink.values("COUNT.alarm")[:3].tolist() == [b"MAJOR HIHI", b"NO_ALARM", b"MAJOR HIHI"]
    (first, *_) = sink.blocks("COUNT")
    assert first.valid is not None
    assert first.valid[0] == Valid.INITIAL


@pytest.mark.slow(6)
async def test_a_caproto_ioc_that_is_killed_and_comes_back_leaves_a_gap(caproto_ioc: StartIoc, recording: Callable[..., Any]) -> None:
    ioc = caproto_ioc()
    async with recording(pvs=[{"pv": "ca://T:COUNT", "name": "COUNT"}]) as sink:
        await sink.until(lambda s: len(s.values("COUNT")) > 3, timeout=60)
        os.killpg(ioc.pid, signal.SIGKILL)
        await sink.until(lambda s: s.of(Disconnected), timeout=60)
        before = len(sink.values("COUNT"))
        caproto_ioc()
        await sink.until(lambda s: len(s.values("COUNT")) > before + 3, timeout=60)
    assert [(gap.cause, gap.count) for gap in sink.gaps("COUNT")] == [(Cause.DISCONNECT, None)]
    assert [type(e) for e in sink.events if isinstance(e, (Connected, Disconnected))] == [Connected, Disconnected, Connected]
    numbers = sink.values("COUNT")
    assert set(np.diff(numbers[:before])) == set(np.diff(numbers[before:])) == {1.0}


@pytest.mark.slow(10)
async def test_a_cameras_settings_over_channel_access_are_followed_beside_its_images_over_pv_access(
    caproto_ioc: StartIoc, pv_server: Any, recording: Callable[..., Any]
) -> None:
    ioc = caproto_ioc()
    image = SharedPV(initial=NTNDArray().wrap(np.zeros((0, 0), "<u2")))
    pv_server.start(**{"Pva1:Image": image})
    table = {"camera": "T:", "settings": ["cam1:ThresholdEnergy_RBV"]}
    async with recording(**table, addresses=[f"pva://127.0.0.1:{pv_server.port}"]) as sink:
        await sink.until(lambda s: len(facts(s)) == 5, timeout=60)
        assert facts(sink) == {
            "manufacturer": "Kaproto", "model": "K-1", "exposure_s": 0.5, "ImageMode_RBV": "Multiple", "cam1_ThresholdEnergy_RBV": 6.2,
        }  # fmt: skip
        pixels = NTNDArray().wrap(np.arange(12, dtype="<u2").reshape(3, 4))
        pixels["uniqueId"] = 1
        image.post(pixels)
        await sink.until(lambda s: s.frames("image"), timeout=60)
        assert sink.frames("image")[0].data.tolist() == np.arange(12).reshape(3, 4).tolist()

        write(ioc, "cam1:AcquireTime_RBV 0.25", "cam1:ImageMode_RBV Single", "cam1:Model_RBV K-2")
        changed = {"exposure_s": 0.25, "ImageMode_RBV": "Single", "model": "K-2"}
        await sink.until(lambda s: facts(s) == facts(s) | changed, timeout=60)

        os.killpg(ioc.pid, signal.SIGKILL)
        os.waitid(os.P_PID, ioc.pid, os.WEXITED | os.WNOWAIT)
        ioc = caproto_ioc()
        back = {"exposure_s": 0.5, "ImageMode_RBV": "Multiple", "model": "K-1"}
        await sink.until(lambda s: facts(s) == facts(s) | back, timeout=60)
        write(ioc, "cam1:Gain_RBV 3.5")
        await sink.until(lambda s: facts(s).get("Gain_RBV") == 3.5, timeout=60)
