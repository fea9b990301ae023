"""An agent as a process that records simulated instruments into a folder, and the comparison of what landed with their truth."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edge_agent.local_api import ask
from firmware_sim.launch import Device

ROOT = Path(__file__).parents[2]
PATIENCE = 240.0
QUIET = 3.0
"""Seconds without an arrival after which nothing more is expected; longer than a device needs to be found again."""

Ready = dict[str, Any]


def _port(ready: Ready) -> str:
    return str(ready.get("url") or ready["path"])


def _furnace(ready: Ready) -> str:
    names = ", ".join(f'"nsu={ready["namespace"]};s={name}"' for name in ("Temperature", "HeaterPower", "Step"))
    return f'adapter = "opcua"\nendpoint = "{ready["endpoint"]}"\nnodes = [{names}]\npublish = "50 ms"\ntimeout = "1 s"'


def _lads(ready: Ready) -> str:
    nodes = ", ".join(
        f'{{ id = "nsu={ready["namespace"]};{node.partition(";")[2]}", name = "{name}" }}' for name, node in ready["nodes"].items()
    )
    return f'adapter = "opcua"\nendpoint = "{ready["endpoint"]}"\nnodes = [{nodes}]\npublish = "50 ms"\ntimeout = "1 s"'


def _pvs(ready: Ready, scheme: str, names: tuple[str, ...]) -> str:
    return ", ".join(f'{{ pv = "{scheme}://{ready["pv"][name]}", name = "{name}" }}' for name in names)


def _ioc(ready: Ready) -> str:
    pvs = f"{_pvs(ready, 'ca', ('TEMP', 'COUNT'))}, {_pvs(ready, 'pva', ('CURRENT', 'I0'))}"
    addresses = [f"ca://127.0.0.1:{ready['port']}", f"pva://127.0.0.1:{ready['pva_port']}"]
    camera = ""
    if "camera" in ready:
        camera = f'camera = "pva://{ready["camera"]["prefix"]}:"\n'
        addresses.append(f"pva://127.0.0.1:{ready['camera']['port']}")
    return f'adapter = "epics"\nidle = "keep"\n{camera}pvs = [{pvs}]\naddresses = {json.dumps(addresses)}'


def _camera(ready: Ready) -> str:
    return f'adapter = "epics"\nidle = "keep"\ncamera = "pva://{ready["prefix"]}:"\naddresses = ["pva://127.0.0.1:{ready["port"]}"]'


TABLES: dict[str, Callable[[Ready], str]] = {
    "balance": lambda ready: f'adapter = "serial"\nport = "{_port(ready)}"\nprofile = "mettler-sics"\nsilence = "1 s"\ntimeout = "500 ms"',
    "thermostat": lambda ready: (
        f'adapter = "serial"\nport = "{_port(ready)}"\nprofile = "scpi"\ncommand = "READ?"\nevery = "50 ms"\n'
        'timeout = "500 ms"\nparse = "{temperature:float},{power:float}"'
    ),
    "spectrometer": lambda ready: (
        f'adapter = "serial"\nport = "{_port(ready)}"\non_connect = ["INIT:CONT ON"]\ncommand_end = "\\n"\n'
        'frame = { start = "AA 55", length = { type = "<u4" }, check = { kind = "crc32", order = "little" } }\n'
        f'struct = "<II{ready["pixels"]}H"\nfields = ["_", "_", "spectrum"]\nsilence = "1 s"'
    ),
    "pump": lambda ready: (
        f'adapter = "serial"\nport = "{_port(ready)}"\nprofile = "pfeiffer-telegram"\ntimeout = "500 ms"\n'
        "poll = [{ command = \"0010030902=?\", every = \"50 ms\", pattern = '0011030906(?P<speed>[0-9]{6})' }]\n"
        'channels = { speed = { unit = "Hz" } }'
    ),
    "furnace": _furnace,
    "lads": _lads,
    "ioc": _ioc,
    "camera": _camera,
    "vendor": lambda ready: f'adapter = "files"\nfolder = "{ready["folder"]}"\nsettle = "1 s"\nsettle_closed = "300 ms"\nrescan = "1 s"',
}
"""The table of a device in the configuration, made of its ready line."""

STREAMS: dict[str, tuple[str, ...]] = {
    "balance": ("mass",), "thermostat": ("temperature", "power"), "spectrometer": ("spectrum",), "pump": ("speed",),
    "furnace": ("Temperature", "HeaterPower", "Step"),
    "lads": ("Temperature", "CO2", "Humidity", "TemperatureTarget"), "ioc": ("TEMP", "COUNT", "CURRENT", "I0", "image"),
    "camera": ("image",), "vendor": ("files",),
}  # fmt: skip
"""The streams of a device that such a table records."""


@dataclass
class Recording:
    """A running agent; `spool` and `space` are below `folder`."""

    folder: Path
    process: subprocess.Popen[str]

    @property
    def space(self) -> Path:
        """Where runs land."""
        return self.folder / "space"

    def ask(self, path: str, method: str = "GET", **body: str) -> Any:
        return asyncio.run(ask(self.folder / "spool", method, path, body if method == "POST" else None))

    def arrived(self) -> dict[str, int]:
        """Items of each stream; not the bytes of lines, which come as long as an instrument is asked, even if it refuses."""
        items = {s["name"]: s["items"] for i in self.ask("/status")["instruments"] for s in i["streams"]}
        return {key: count for key, count in items.items() if not key.endswith(("/garbage", "/raw"))}

    def until(self, condition: Callable[[], object], within: float = PATIENCE) -> None:
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, f"{self.ask('/status')}\n{self.log()[-3000:]}"
            time.sleep(0.1)

    def until_connected(self, *instruments: str, **sources: int) -> None:
        """Every source of these instruments has answered once, of which there are as many as `sources` says, else at least one.

        Not all at the same time: a line that is polled and held back falls silent again while others still connect.
        """
        waited = set(instruments)

        def connected() -> bool:
            found: dict[str, Any] = {i["name"]: i["connections"] for i in self.ask("/status")["instruments"]}
            up = {name for name in waited if len(found[name]) >= sources.get(name, 1) and all(up for up, _ in found[name].values())}
            waited.difference_update(up)
            return not waited

        self.until(connected)

    def until_quiet(self) -> None:
        """Nothing has arrived for a while."""
        last: tuple[dict[str, int], float] = ({}, 0.0)

        def quiet() -> bool:
            nonlocal last
            now = self.arrived()
            if now != last[0]:
                last = (now, time.monotonic())
            return time.monotonic() - last[1] > QUIET

        self.until(quiet)

    def until_landed(self) -> None:
        """The session's run is complete where it lands; that of the day goes on."""
        self.until(lambda: any(self.space.rglob("ro-crate-metadata.json")))

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()


@contextmanager
def recording(folder: Path, text: str, env: dict[str, str] | None = None) -> Iterator[Recording]:
    """Run the agent with the configuration `text`, in which `spool` and `target` are made to be below `folder`."""
    (folder / "space").mkdir(parents=True)
    file = folder / "agent.toml"
    file.write_text(text, encoding="utf-8")
    with (folder / "agent.log").open("w") as errors:
        command = [sys.executable, "-m", "edge_agent.cli", "run", "--config", str(file)]
        environment = {**os.environ, "EDGE_AGENT_LANG": "en", **(env or {})}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=environment)
    one = Recording(folder, process)
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), one.log()
        yield one
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def configuration(folder: Path, devices: dict[str, Device], group: str = "bench", more: dict[str, str] | None = None) -> str:
    """A configuration that records these devices in one group."""
    head = f'site = "bench"\ntimezone = "Asia/Tokyo"\nspool = {{ dir = "{folder / "spool"}", keep_free = "1 MB" }}\n'
    tables = [
        f'[instrument.{name}]\ngroup = "{group}"\n{TABLES[name](device.ready)}\n{(more or {}).get(name, "")}'
        for name, device in devices.items()
    ]
    return "\n".join([head, *tables, f'[target.disk]\nfolder = "{folder / "space"}"\n'])


def repeater_env(devices: dict[str, Device]) -> dict[str, str]:
    """The repeater port of the simulated IOC, for the agent's CA client."""
    found = devices["ioc"].ready["env"] if "ioc" in devices else {}
    return {key: value for key, value in found.items() if "REPEATER" in key}


def judged(
    folder: Path,
    devices: dict[str, Device],
    streams: dict[str, tuple[str, ...]] = STREAMS,
    keys: dict[str, dict[str, str]] | None = None,
) -> tuple[dict[str, SimpleNamespace], dict[str, SimpleNamespace]]:
    """What landed of the agent in `folder`, and how it compares with what was sent, both by `instrument/stream`.

    What a wrong clock put into the run of the day counts as landed: it would land at midnight, and is read where it waits, once the
    agent has ended. `keys`: where a stream of a device lands, if not at `device/stream`. See `edge_agent.demo.judge`.
    """
    asked = {"folder": str(folder), "truths": {name: str(device.truth) for name, device in devices.items()}, "streams": streams, "keys": keys or {}}
    command = [sys.executable, "-m", "tests.firmware_sim.judge_child"]
    done = subprocess.run(command, input=json.dumps(asked).encode(), capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr.decode()
    landed, verdicts = pickle.loads(done.stdout)
    return {key: SimpleNamespace(**one) for key, one in landed.items()}, {key: SimpleNamespace(**one) for key, one in verdicts.items()}


def errors_of(log: str) -> list[str]:
    """Lines of the agent's log that say ERROR."""
    return [line for line in log.splitlines() if re.search(r"\bERROR\b", line)]
