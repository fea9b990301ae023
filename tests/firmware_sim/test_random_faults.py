"""Faults at random, about one a second on every device, through the real adapters and the recorder: what is missing is declared, nothing is extra."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from firmware_sim.launch import Device
from tests.firmware_sim.bench import STREAMS, configuration, judged, recording, repeater_env
from tests.firmware_sim.test_matrix import OPTIONS

SEED = 4
FAULTS = 25
"""So many of each device, at least."""


@pytest.mark.slow(90)
@pytest.mark.timeout(600)
def test_whatever_happens_by_chance_what_landed_is_what_was_sent_but_for_declared_gaps(tmp_path: Path) -> None:
    devices: dict[str, Device] = {}
    for number, (name, options) in enumerate(OPTIONS.items()):
        own = ["--folder", str(tmp_path / "vendor")] if name == "vendor" else []
        devices[name] = Device(
            name, *options, *own, "--random-faults", "1", seed=SEED + number, truth=tmp_path / f"{name}.jsonl", hold=True
        )
    with ExitStack() as stack:
        for device in devices.values():
            stack.callback(device.quit)
        with ThreadPoolExecutor() as pool:
            list(pool.map(Device.start, devices.values()))
        with recording(tmp_path / "agent", configuration(tmp_path / "agent", devices), repeater_env(devices)) as agent:
            agent.ask("/session/start", "POST", project="p", group="bench")
            agent.until_connected("balance", "furnace", "lads", "ioc", "camera", "vendor", ioc=5)
            for device in devices.values():
                device.go()
            agent.until(lambda: all(len(device.read_truth().faults) >= FAULTS for device in devices.values()))
            for device in devices.values():
                device.stop()
            agent.until_quiet()
            agent.ask("/session/stop", "POST", group="bench", outcome="complete")
            agent.until_landed()
        verdicts = judged(tmp_path / "agent", devices)[1]
    assert {key: verdict for key, verdict in verdicts.items() if not verdict.same} == {}
    assert set(verdicts) == {f"{name}/{stream}" for name in OPTIONS for stream in STREAMS[name]}
