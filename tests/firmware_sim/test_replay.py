"""Records simulated instruments, plays the landed run back, records that, and compares the two."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from firmware_sim.launch import Device, DeviceError
from tests.firmware_sim.bench import STREAMS, configuration, judged, recording, repeater_env

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

OPTIONS: dict[str, tuple[str, ...]] = {
    "balance": ("--tcp", "--rate", "20", "--count", "60"),
    "thermostat": ("--tcp", "--rate", "20", "--count", "40"),
    "furnace": ("--rate", "20", "--count", "60"),
    "ioc": ("--rate", "20", "--count", "60", "--camera", "--rows", "24", "--columns", "32", "--fault", "nan@1"),
    "vendor": ("--rate", "4", "--count", "6"),
}
RECORDED = {name: STREAMS[name] for name in OPTIONS}
RAW = {"balance": "raw = true\n", "thermostat": "raw = true\n"}


@dataclass(frozen=True)
class Twice:
    """The run that was played, and what landed first and then."""

    run: Path
    first: dict[str, SimpleNamespace]
    second: dict[str, SimpleNamespace]
    played: dict[str, int]


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twice]:
    folder = tmp_path_factory.mktemp("replay")
    devices = {}
    for name, options in OPTIONS.items():
        own = ["--folder", str(folder / "vendor")] if name == "vendor" else []
        devices[name] = Device(name, *options, *own, truth=folder / f"{name}.jsonl", hold=True)
    with ExitStack() as stack:
        for device in devices.values():
            stack.callback(device.quit)
        with ThreadPoolExecutor() as pool:
            list(pool.map(Device.start, devices.values()))
        text = configuration(folder / "one", devices, more=RAW)
        with recording(folder / "one", text, repeater_env(devices)) as agent:
            agent.ask("/session/start", "POST", project="p", group="bench")
            agent.until_connected(*devices, ioc=5)
            for device in devices.values():
                device.go()
            for device in devices.values():
                device.wait_stopped(120)
            agent.until_quiet()
            agent.ask("/session/stop", "POST", group="bench", outcome="complete")
            agent.until_landed()
            (run,) = {path.parent for path in agent.space.rglob("*.hsc")}
        first, verdicts = judged(folder / "one", devices, RECORDED)
        assert all(verdict.same and not verdict.lost for verdict in verdicts.values()), verdicts
    with Device("replay", str(run), "--speed", "3", "--folder", str(folder / "again"), truth=folder / "replay.jsonl", hold=True) as replay:
        with recording(folder / "two", _again(folder / "two", replay), _repeater(replay)) as agent:
            agent.ask("/session/start", "POST", project="p", group="bench")
            agent.until_connected("furnace", "ioc", "vendor", ioc=5)
            replay.go()
            played = replay.wait_stopped(120)
            agent.until_quiet()
            agent.ask("/session/stop", "POST", group="bench", outcome="complete")
            agent.until_landed()
        yield Twice(run, first, judged(folder / "two", {})[0], played)


def _repeater(replay: Device) -> dict[str, str]:
    return {key: value for key, value in replay.ready["instruments"]["ca"]["env"].items() if "REPEATER" in key}


def _again(folder: Path, replay: Device) -> str:
    """The same configuration, with the addresses of the playback."""
    where = replay.ready["instruments"]
    pvs = ", ".join(
        f'{{ pv = "{scheme}://{where[scheme]["pv"][f"ioc/{name}"]}", name = "{name}" }}'
        for scheme, names in (("ca", ("TEMP", "COUNT")), ("pva", ("CURRENT", "I0")))
        for name in names
    )
    nodes = ", ".join(
        f'{{ id = "nsu=urn:firmware-sim:furnace;s={name}", name = "{name}" }}' for name in ("Temperature", "HeaterPower", "Step")
    )
    return f"""
site = "bench"
timezone = "Asia/Tokyo"
spool = {{ dir = "{folder / "spool"}", keep_free = "1 MB" }}
[instrument.balance]
group = "bench"
adapter = "serial"
port = "{where["balance"]["url"]}"
profile = "mettler-sics"
[instrument.thermostat]
group = "bench"
adapter = "serial"
port = "{where["thermostat"]["url"]}"
profile = "scpi"
command = "READ?"
every = "50 ms"
timeout = "500 ms"
parse = "{{temperature:float}},{{power:float}}"
[instrument.furnace]
group = "bench"
adapter = "opcua"
endpoint = "{where["opcua"]["endpoint"]}"
nodes = [{nodes}]
publish = "50 ms"
[instrument.ioc]
group = "bench"
adapter = "epics"
image = "pva://{where["pva"]["pv"]["ioc/image"]}"
pvs = [{pvs}]
addresses = ["ca://127.0.0.1:{where["ca"]["port"]}", "pva://127.0.0.1:{where["pva"]["port"]}"]
[instrument.vendor]
group = "bench"
adapter = "files"
folder = "{where["files"]["folder"]}/vendor"
settle = "1 s"
settle_closed = "300 ms"
rescan = "1 s"
[target.disk]
folder = "{folder / "space"}"
"""


@pytest.mark.parametrize("stream", [f"{name}/{stream}" for name, streams in RECORDED.items() for stream in streams])
def test_a_playback_recorded_again_is_the_same_data(twice: Twice, stream: str) -> None:
    first, second = twice.first[stream], twice.second[stream]
    np.testing.assert_equal(second.values, first.values)
    assert (second.numbers, second.digests) == (first.numbers, first.digests)
    assert second.files == first.files
    assert max(len(first.values), len(first.digests), len(first.files)) >= 6


def test_the_alarm_of_a_value_is_played_with_it(twice: Twice) -> None:
    first, second = twice.first["ioc/TEMP.alarm"].values, twice.second["ioc/TEMP.alarm"].values
    assert second == first
    assert len(first) == 2
    assert first[0].startswith(b"INVALID"), first


def test_the_playback_notes_what_it_sent(twice: Twice) -> None:
    assert twice.played["furnace/Step"] == len(twice.first["furnace/Step"].values)
    assert twice.played["ioc/image"] == len(twice.first["ioc/image"].digests)
    assert twice.played["vendor/files"] == 6


@pytest.mark.parametrize("speed", [1, 8])
def test_values_come_at_the_pace_at_which_they_were_recorded_or_faster(twice: Twice, speed: int, tmp_path: Path) -> None:
    options = () if speed == 1 else ("--speed", str(speed))
    with Device("replay", str(twice.run), "--instrument", "furnace", *options, truth=tmp_path / "replay.jsonl", hold=True) as replay:
        replay.go()
        replay.wait_stopped(60)
        played = np.array([item.t for item in replay.read_truth().of("furnace/Step")])
    recorded = np.array(twice.first["furnace/Step"].times)
    assert len(played) == len(recorded)
    # A busy machine may show any of them late, never early: the least late ones are compared.
    late = played - recorded / speed
    half = len(late) // 2
    assert abs(late[:half].min() - late[half:].min()) < 0.1e9
    assert played[-1] - played[0] > 0.9 * (recorded[-1] - recorded[0]) / speed


def test_a_line_whose_bytes_were_not_kept_is_refused_with_the_setting(twice: Twice) -> None:
    # The second recording did not say raw = true.
    (run,) = {path.parent for path in (twice.run.parents[5] / "two" / "space").rglob("*.hsc")}
    with pytest.raises(DeviceError, match=r"raw = true in \[instrument.balance\]"):
        Device("replay", str(run), "--instrument", "balance").start()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [(("--instrument", "laser"), "it has balance, furnace, ioc, thermostat, vendor"), ((), "say where they go: --folder"), (("--speed", "0"), "0.001")],
)
def test_a_playback_that_cannot_be_says_why(twice: Twice, arguments: tuple[str, ...], why: str) -> None:
    with pytest.raises(DeviceError, match=why):
        Device("replay", str(twice.run), *arguments).start()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="give the folder of a landed run"):
        Device("replay", str(tmp_path)).start()
