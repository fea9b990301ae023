from __future__ import annotations

import hashlib
import io
import json
import os
import queue
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bitshuffle
import numpy as np
import pytest
from p4p.client.thread import Context
from PIL import Image

from firmware_sim.launch import Device, DeviceError

StartDevice = Callable[..., Device]

# A process of its own: the CA client reads its environment once, when it is imported.
CLIENT = """
import asyncio, json, sys
import aioca

async def main():
    names = sys.argv[1:]
    seen = {name: [] for name in names}
    subscriptions = aioca.camonitor(
        names,
        lambda value, index: seen[names[index]].append(value),
        format=aioca.FORMAT_TIME,
        all_updates=True,
    )
    async with asyncio.timeout(30):
        while not all(seen.values()):
            await asyncio.sleep(0.01)
    print("subscribed", flush=True)
    wanted = json.loads(await asyncio.to_thread(sys.stdin.readline))
    async with asyncio.timeout(30):
        while any(len(seen[name]) < count for name, count in wanted.items()):
            await asyncio.sleep(0.01)
    def plain(value):
        number = isinstance(value, (int, float))
        kind = float if isinstance(value, float) else int if number else str
        seconds, nanoseconds = value.raw_stamp
        return [seconds * 10**9 + nanoseconds, round(value.timestamp * 10**6) * 1000, repr(kind(value)), value.severity]
    print(json.dumps({name: [plain(value) for value in values] for name, values in seen.items()}), flush=True)
    controls = {}
    for name in names:
        value = await aioca.caget(name, format=aioca.FORMAT_CTRL)
        controls[name] = [getattr(value, "units", None), getattr(value, "precision", None), getattr(value, "enums", None)]
    print(json.dumps(controls), flush=True)

asyncio.run(main())
"""


class CaClient:
    """Monitors PVs from another process."""

    def __init__(self, ioc: Device) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("EPICS_")} | ioc.ready["env"]
        self._names = ioc.ready["pv"]
        command = [sys.executable, "-c", CLIENT, *self._names.values()]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True)
        assert self._line() == "subscribed"

    def collect(self, counts: dict[str, int]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Wait for so many updates per stream, the first included; returns updates and control values per stream."""
        assert self.process.stdin is not None
        wanted = {pv: counts.get(stream, 1) for stream, pv in self._names.items()}
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        updates, controls = json.loads(self._line()), json.loads(self._line())
        streams = self._names.items()
        return {stream: updates[pv] for stream, pv in streams}, {stream: controls[pv] for stream, pv in streams}

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def monitoring(ioc: Device) -> Iterator[CaClient]:
    client = CaClient(ioc)
    try:
        yield client
    finally:
        with client.process:
            client.process.kill()


def expected(ioc: Device, stream: str) -> list[list[Any]]:
    truth = ioc.read_truth()
    first = truth.initial_of(stream)
    assert first is not None
    return [[item.t, item.t, repr(item.v)] for item in (first, *truth.of(stream))]


def test_every_value_and_time_equals_the_truth(device: StartDevice) -> None:
    ioc = device("ioc", "--rate", "50", "--count", "100", "--prefix", "BL05:T1", hold=True)
    assert ioc.ready["pv"]["TEMP"] == "BL05:T1:TEMP"
    with monitoring(ioc) as client:
        assert ioc.command("shutter open")["changed"] is True
        assert ioc.command("shutter open")["changed"] is False
        ioc.command("set PROPOSAL 2026B0042")
        ioc.command("set MOTOR -3.25")
        ioc.go()
        sent = ioc.wait_stopped()
        every_tick = dict.fromkeys(("TEMP", "CURRENT", "COUNT", "I0"), 100)
        assert sent == {"SHUTTER": 1, "PROPOSAL": 1, "MOTOR": 1, "MOTOR_RBV": 63, "MOTOR_DMOV": 2} | every_tick
        updates, controls = client.collect({stream: count + 1 for stream, count in sent.items()})
    for stream, seen in updates.items():
        assert [update[:3] for update in seen] == expected(ioc, stream), stream
        assert {update[3] for update in seen} == {0}
    assert controls["TEMP"][:2] == ["K", 4]
    assert controls["CURRENT"][0] == "mA"
    assert controls["MOTOR"][0] == "mm"
    assert controls["SHUTTER"][2] == ["closed", "open"]
    assert updates["SHUTTER"][-1][2] == "1"
    assert [float(update[2]) for update in updates["MOTOR_RBV"]][-2:] == [-3.0, -3.25]
    counts = [int(update[2]) for update in updates["I0"]]
    assert 900 < np.diff(counts).mean() < 1100


def test_production_begins_when_a_client_has_connected(device: StartDevice) -> None:
    ioc = device("ioc", "--rate", "100", "--count", "10")
    with monitoring(ioc) as client:
        updates, _ = client.collect({"COUNT": 11})
    assert [update[2] for update in updates["COUNT"]] == [str(n) for n in range(11)]


def test_not_a_number_has_severity_invalid(device: StartDevice) -> None:
    ioc = device("ioc", "--rate", "50", "--count", "30", "--fault", "nan@0.2", hold=True)
    with monitoring(ioc) as client:
        ioc.go()
        sent = ioc.wait_stopped()
        updates, _ = client.collect({stream: count + 1 for stream, count in sent.items()})
    assert [update[:3] for update in updates["TEMP"]] == expected(ioc, "TEMP")
    assert [update[3] for update in updates["TEMP"] if update[2] == "nan"] == [3]
    assert {update[3] for update in updates["TEMP"] if update[2] != "nan"} == {0}


@pytest.mark.parametrize("codec", ["none", "zlib", "lz4", "bslz4", "blosc", "jpeg"])
def test_one_ioc_serves_records_over_pv_access_and_a_detector_with_any_codec(device: StartDevice, codec: str) -> None:
    plan = ("--fault", "duplicate@0", "--fault", "reorder@0")
    ioc = device("ioc", "--camera", "--rows", "96", "--columns", "128", "--codec", codec, "--rate", "20", "--count", "5", *plan, hold=True)
    images: queue.Queue[Any] = queue.Queue()
    with Context("pva", conf=ioc.ready["env"], useenv=False, nt=False) as context:
        assert context.get("SIM:MOTOR_RBV").value == 12.5
        subscription = context.monitor(ioc.ready["camera"]["pv"], images.put, request="record[queueSize=100]")
        assert images.get(timeout=30).value is None
        ioc.go()
        sent = ioc.wait_stopped()["image"]
        received = [images.get(timeout=30) for _ in range(sent)]
        subscription.close()
    assert [image.uniqueId for image in received] == [1, 1, 3, 2, *range(4, sent)]
    for image, item in zip(received, ioc.read_truth().of("image"), strict=True):
        assert image.codec.name == ("" if codec == "none" else codec)
        payload = image.value.tobytes()
        assert image.compressedSize == len(payload)
        if codec == "none":
            assert hashlib.sha256(payload).hexdigest() == item.sha256
        elif codec == "zlib":
            assert hashlib.sha256(zlib.decompress(payload)).hexdigest() == item.sha256
        elif codec == "jpeg":
            shown = np.asarray(Image.open(io.BytesIO(payload)))
            assert hashlib.sha256(shown.tobytes()).hexdigest() == item.sha256
        elif codec == "bslz4":
            frame = bitshuffle.decompress_lz4(np.frombuffer(payload, np.uint8), (96, 128), np.dtype("<u2"), 0)
            assert hashlib.sha256(frame.tobytes()).hexdigest() == item.sha256


def test_a_command_that_cannot_be_obeyed_says_why(device: StartDevice) -> None:
    refused = {
        "set MOTOR nan": "no finite number",
        "set MOTOR left": "no finite number",
        "set COUNT 3": "the IOC knows",
        "set PROPOSAL " + "x" * 40: "the IOC knows",
        "shutter ajar": "the IOC knows",
    }
    ioc = device("ioc", hold=True)
    for command, why in refused.items():
        with pytest.raises(DeviceError, match=why):
            ioc.command(command)
    assert ioc.stop() == {}


def repeaters() -> set[int]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"caRepeater" in (process / "cmdline").read_bytes():
                found.add(int(process.name))
        except OSError:
            continue  # it ended while we looked
    return found


def test_neither_the_ioc_nor_its_client_leaves_a_repeater_behind(device: StartDevice) -> None:
    ioc = device("ioc", hold=True)
    with monitoring(ioc) as client:
        client.collect({})
        # Others on this machine may run a repeater; one that uses our port can only come from us.
        port = ioc.ready["env"]["EPICS_CA_REPEATER_PORT"].encode()
        ours = [pid for pid in repeaters() if b"EPICS_CA_REPEATER_PORT=" + port in (Path("/proc") / str(pid) / "environ").read_bytes()]
    assert ours == []


def test_nothing_listens_beyond_loopback(device: StartDevice) -> None:
    ioc = device("ioc", hold=True)
    inodes = {os.readlink(fd) for fd in (Path("/proc") / str(ioc.pid) / "fd").iterdir()}
    for table in ("tcp", "tcp6"):
        for row in (Path("/proc") / str(ioc.pid) / "net" / table).read_text().splitlines()[1:]:
            fields = row.split()
            if f"socket:[{fields[9]}]" in inodes:
                assert fields[1].startswith("0100007F:"), row
