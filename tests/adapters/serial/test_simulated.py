"""Against the simulated spectrometer, pump and thermostat: what they say they sent is there, value by value, and what a fault
spoiled is declared, whatever the framing."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.testing import Connected, Described, Missing, RecordingSink
from edge_agent.model import Cause
from firmware_sim.launch import Device

Run = Callable[..., Any]
CRC = {"kind": "crc32", "order": "little"}


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Callable[..., Device]]:
    devices: list[Device] = []

    def start(*options: str) -> Device:
        devices.append(Device(*options, truth=tmp_path / f"truth-{len(devices)}.jsonl").start())
        return devices[-1]

    yield start
    for one in devices:
        one.quit()


def port(device: Device) -> str:
    return str(device.ready.get("url") or device.ready["path"])


def hashes(sink: RecordingSink) -> list[str]:
    return [hashlib.sha256(row.tobytes()).hexdigest() for block in sink.blocks("spectrum") for row in block.values]


def faults(*kinds: str) -> list[str]:
    return [part for kind in kinds for part in ("--fault", kind)]


FORMS = {
    "numbered": {"struct": "<II*H", "fields": ["number", "exposure", "spectrum"], "block": {"check": CRC}},
    "frame": {
        "struct": "<II*H", "fields": ["number", "exposure", "spectrum"],
        "frame": {"start": "AA 55", "length": {"type": "<u4"}, "check": CRC}, "command_end": "\n", "max_length": 65536,
    },
    "bare": {"parse": "{spectrum:block}", "channels": {"spectrum": {"dtype": "<u2"}}},
}  # fmt: skip


@pytest.mark.parametrize("form", ["numbered", *(pytest.param(form, marks=pytest.mark.slow) for form in ("frame", "bare"))])
async def test_every_spectrum_lands_and_what_a_fault_spoiled_is_a_gap(form: str, device: Callable[..., Device], run: Run) -> None:
    spoiled = ["garbage@0.6", "partial@0.9", *([] if form == "bare" else ["corrupt@1.5"])]
    options = faults(*spoiled, "duplicate@1.7", "typechange@1.9")
    spectrometer = device("spectrometer", "--form", form, "--pixels", "512", "--rate", "50", "--count", "100", *options)
    keys = {"profile": "scpi", "on_connect": [], "command": "READ?", "every": "20 ms", "timeout": "2 s"}
    one = await run(port(spectrometer), **keys, **FORMS[form], wait=False)
    await one.sink.until(lambda s: len(hashes(s)) >= 100, timeout=60)
    await asyncio.to_thread(spectrometer.wait_stopped)
    sent = [item.sha256 for item in spectrometer.read_truth().of("spectrum")]
    assert hashes(one.sink) == sent
    gaps = [gap for gap in one.sink.gaps("spectrum") if gap.cause is Cause.GARBAGE]
    assert sum(gap.count or 0 for gap in gaps) >= len(spoiled)
    assert {event.stream.name for event in one.sink.of(Missing)} <= {"spectrum", "number", "exposure"}


async def test_a_pump_is_asked_by_telegrams_with_a_checksum(device: Callable[..., Device], run: Run) -> None:
    pump = device("pump", "--rate", "50", "--count", "90", *faults("corrupt@0.4", "garbage@0.8"))
    poll = [
        {"command": "0010030902=?", "every": "30 ms", "pattern": "0011030906(?P<speed>[0-9]{6})"},
        {"command": "0010031002=?", "every": "30 ms", "pattern": "0011031006(?P<current>[0-9]{6})"},
    ]
    one = await run(port(pump), profile="pfeiffer-telegram", poll=poll, timeout="500 ms", wait=False)
    await asyncio.to_thread(pump.wait_stopped)
    truth = pump.read_truth()
    speeds, currents = [item.v for item in truth.of("speed")], [round(item.v * 100) for item in truth.of("current")]
    await one.sink.until(lambda s: len(s.values("speed")) >= len(speeds) and len(s.values("current")) >= len(currents))
    assert one.sink.values("speed").tolist()[: len(speeds)] == speeds
    assert one.sink.values("current").tolist()[: len(currents)] == currents
    assert any("sum8 is" in gap.detail for name in ("speed", "current") for gap in one.sink.gaps(name))


@pytest.mark.slow
async def test_a_thermostat_is_recorded_whole_by_scpi(device: Callable[..., Device], run: Run) -> None:
    thermostat = device("thermostat", "--tcp", "--count", "120", *faults("partial@0.5:4", "nan@0.7", "disconnect@1"))
    one = await run(port(thermostat), profile="scpi", command="READ?", every="20 ms", parse="{temperature:float},{power:float}", wait=False)
    await asyncio.to_thread(thermostat.wait_stopped)
    truth = thermostat.read_truth()
    for name in ("temperature", "power"):
        sent = np.array([item.v for item in truth.of(name)], float)
        await one.sink.until(lambda s, name=name, sent=sent: len(s.values(name)) >= len(sent))
        np.testing.assert_array_equal(one.sink.values(name), sent)
    assert len(one.sink.of(Connected)) == 2
    assert one.sink.of(Described)[0].facts["model"] == "TC-400"
