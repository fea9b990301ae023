"""Every fault of every device, through the real adapters and the recorder: nothing extra landed, and what is missing is declared.

All devices suffer all their faults in one run of one agent; each fault answers for the time until the next one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from firmware_sim.__main__ import KINDS
from firmware_sim.launch import Device
from firmware_sim.truth import Truth
from tests.firmware_sim.bench import STREAMS, Recording, configuration, judged, recording, repeater_env

pytestmark = pytest.mark.timeout(600)

OPTIONS: dict[str, tuple[str, ...]] = {
    "balance": ("--tcp", "--rate", "20"),
    "thermostat": ("--tcp", "--rate", "20"),
    "spectrometer": ("--tcp", "--rate", "20", "--form", "frame", "--pixels", "64"),
    "pump": ("--tcp", "--rate", "20"),
    "furnace": ("--rate", "20"),
    "lads": ("--rate", "20"),
    "ioc": ("--rate", "20", "--camera", "--rows", "32", "--columns", "32"),
    "camera": ("--prefix", "SIM2", "--rate", "20", "--rows", "32", "--columns", "32"),
    "vendor": ("--rate", "4"),
}
SHORT = {"hang": ":1.2", "drip": ":0.3", "clockstep": ":-600", "partial": ""}
"""Arguments that keep the test short."""
LEFT_OUT = {
    ("furnace", "certificate"): "needs a server with security",
    ("lads", "certificate"): "needs a server with security",
    ("spectrometer", "typechange"): "records of a fixed length",
}
EVERY = 0.7
"""Seconds between two faults of a device."""


def plan(name: str) -> list[str]:
    # The clock first: set during an outage, it would hide how long that was. What breaks connections last: a client takes its time.
    order = {"clockstep": 0, "hang": 2, "disconnect": 3}
    kinds = sorted((kind for kind in KINDS[name]().faults if (name, kind) not in LEFT_OUT), key=lambda kind: order.get(kind, 1))
    return [f"{kind}@{0.5 + EVERY * i:.1f}{SHORT.get(kind, '')}" for i, kind in enumerate(kinds)]


CASES = [(name, fault.partition("@")[0]) for name in OPTIONS for fault in plan(name)]


@dataclass(frozen=True)
class Outcome:
    truths: dict[str, Truth]
    verdicts: dict[str, SimpleNamespace]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    folder = tmp_path_factory.mktemp("matrix")
    devices: dict[str, Device] = {}
    for name, options in OPTIONS.items():
        own = ["--folder", str(folder / "vendor")] if name == "vendor" else []
        faults = [word for fault in plan(name) for word in ("--fault", fault)]
        devices[name] = Device(name, *options, *own, *faults, truth=folder / f"{name}.jsonl", hold=True)
    with ExitStack() as stack:
        for device in devices.values():
            stack.callback(device.quit)
        with ThreadPoolExecutor() as pool:
            list(pool.map(Device.start, devices.values()))
        with recording(folder / "agent", configuration(folder / "agent", devices), repeater_env(devices)) as agent:
            _suffer(agent, devices)
        truths = {name: device.read_truth() for name, device in devices.items()}
        yield Outcome(truths, judged(folder / "agent", devices)[1])


def _suffer(agent: Recording, devices: dict[str, Device]) -> None:
    agent.ask("/session/start", "POST", project="p", group="bench")
    agent.until_connected("balance", "furnace", "lads", "ioc", "camera", "vendor", ioc=5)
    for device in devices.values():
        device.go()
    agent.until(lambda: all(len(device.read_truth().faults) == len(plan(name)) for name, device in devices.items()))
    # Every source must be back after its last fault: some more of each has to come.
    before = agent.arrived()
    wanted = {f"{name}/{streams[0]}": 1 if name == "vendor" else 10 for name, streams in STREAMS.items()}
    agent.until(lambda: all(agent.arrived().get(key, 0) > before.get(key, 0) + more for key, more in wanted.items()))
    for device in devices.values():
        device.stop()
    agent.until_quiet()
    agent.ask("/session/stop", "POST", group="bench", outcome="complete")
    agent.until_landed()


@pytest.mark.parametrize("stream", [f"{name}/{stream}" for name in OPTIONS for stream in STREAMS[name]])
def test_what_landed_is_what_was_sent_and_what_is_missing_is_declared(outcome: Outcome, stream: str) -> None:
    verdict = outcome.verdicts[stream]
    assert verdict.same, verdict
    assert verdict.sent > 0
    assert verdict.landed > verdict.sent / 4, verdict


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_fault_happened_and_nothing_differs_until_the_next_one(outcome: Outcome, name: str, kind: str) -> None:
    faults = outcome.truths[name].faults
    (number,) = [n for n, fault in enumerate(faults) if fault.kind == kind]
    until = faults[number + 1].t if number + 1 < len(faults) else math.inf
    verdicts = {stream: outcome.verdicts[f"{name}/{stream}"] for stream in STREAMS[name]}
    assert {stream: (v.why, v.at) for stream, v in verdicts.items() if any(faults[number].t <= t < until for t in v.at)} == {}
