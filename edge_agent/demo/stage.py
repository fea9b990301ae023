"""Sets the stage: instruments, landing service, broker and agent, each a process; and takes it down again whatever happens."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.demo.broker import Broker, available
from edge_agent.demo.process import Child, python
from edge_agent.errors import EdgeAgentError
from firmware_sim.launch import Device
from firmware_sim.truth import Truth

PROJECT = "demo-project"
SITE = "beamline"
RATES = {"balance": 10.0, "furnace": 10.0, "ioc": 10.0, "camera": 20.0, "vendor": 1.0}

CONFIG = """\
site = "{site}"
timezone = "Asia/Tokyo"
spool = {{ dir = "{agent}", keep_free = "1 GB" }}

[instrument.balance]
adapter = "serial"
group = "{site}"
port = "{balance}"
profile = "mettler-sics"

[instrument.furnace]
adapter = "opcua"
group = "{site}"
endpoint = "{furnace}"
nodes = [{nodes}]

[instrument.ioc]
adapter = "epics"
group = "{site}"
pvs = [{pvs}]
addresses = ["ca://127.0.0.1:{ca_port}"]

[instrument.camera]
adapter = "epics"
group = "{site}"
camera = "pva://{camera}"
codec = "bitshuffle-lz4"
addresses = ["pva://127.0.0.1:{pva_port}"]

[instrument.vendor]
adapter = "files"
group = "{site}"
folder = "{vendor}"
settle = "500 ms"
rescan = "1 s"

[target.cloud]
{target}
"""

SOURCES = {"balance": "serial", "furnace": "OPC-UA", "ioc": "CA", "camera": "PVA", "vendor": "files"}
NODES = ("Temperature", "HeaterPower")
PVS = ("TEMP", "CURRENT", "COUNT")


@dataclass(frozen=True, slots=True)
class Row:
    """A stream of the demo: its key at the agent, its device, and its name in the device's truth."""

    key: str
    device: str
    stream: str

    @property
    def name(self) -> str:
        """As it is printed: the instrument alone when it has one stream."""
        alone = {"balance", "camera", "vendor"}
        return self.device if self.device in alone else self.key


ROWS = (
    Row("balance/mass", "balance", "mass"),
    *(Row(f"furnace/{name}", "furnace", name) for name in NODES),
    *(Row(f"ioc/{name}", "ioc", name) for name in PVS),
    Row("camera/image", "camera", "image"),
    Row("vendor/files", "vendor", "files"),
)


@dataclass(slots=True)
class Stage:
    """One demo in one folder."""

    folder: Path
    via: str
    seed: int
    devices: dict[str, Device] = field(default_factory=dict)
    broker: Broker | None = None
    landing: Child | None = None
    agent: Child | None = None
    recovered: list[str] = field(default_factory=list)

    @property
    def config(self) -> Path:
        """The agent's configuration."""
        return self.folder / "agent.toml"

    @property
    def spool(self) -> Path:
        """The agent's spool."""
        return self.folder / "agent"

    @property
    def logs(self) -> Path:
        """Where every process's standard error goes."""
        return self.folder / "logs"

    def set(self) -> None:
        """Start everything but the agent, enrol it, and write its configuration."""
        self.logs.mkdir(parents=True)
        (self.folder / "truth").mkdir()
        (self.folder / "vendor-folder").mkdir()
        self._run(python("landing", "init", str(self.folder), "--name", "demo landing service"))
        serve = python("landing", "serve", str(self.folder), "--keep-free", "0.5")
        if self.via == "mqtt" or available():
            # Both doors of the landing service are open whichever way the data goes.
            self.broker = Broker(self.folder / "broker")
            serve += ["--mqtt", self.broker.url]
        self.landing = Child("landing", serve, self.logs / "landing.log")
        url = str(self.landing.ready()["url"])
        for name, rate in RATES.items():
            options = ["--rate", f"{rate:g}"]
            options += ["--folder", str(self.folder / "vendor-folder")] if name == "vendor" else []
            truth = self.folder / "truth" / f"{name}.jsonl"
            self.devices[name] = Device(name, *options, seed=self.seed, truth=truth, hold=True, stderr=self.logs / f"{name}.log")
        with ThreadPoolExecutor() as pool:
            list(pool.map(Device.start, self.devices.values()))
        self.config.write_text(self._configuration(url), encoding="utf-8")
        printed = self._run(python("landing", "token", str(self.folder), "--project", PROJECT, "--project", "unclaimed"))
        token = next(line.split()[-1] for line in printed.splitlines() if line.startswith("edge-agent enroll"))
        self._run(python("edge_agent.cli", "enroll", token, "--config", str(self.config), "--name", "demo"))

    def start_agent(self) -> dict[str, Any]:
        """Start the daemon and wait until it is ready."""
        environment = dict(self.devices["ioc"].ready["env"]) | dict(self.devices["camera"].ready["env"])
        repeater = {key: value for key, value in environment.items() if "REPEATER" in key}
        self.agent = Child("agent", python("edge_agent.cli", "run", "--config", str(self.config)), self.logs / "agent.log", repeater)
        ready = self.agent.ready()
        self.recovered.append(str(ready["recovered"]))
        return ready

    def truths(self) -> dict[str, Truth]:
        """What every device says it sent."""
        return {name: device.read_truth() for name, device in self.devices.items()}

    def take_down(self) -> None:
        """Stop all processes, the agent first."""
        if self.agent is not None:
            self.agent.stop()
        with ThreadPoolExecutor() as pool:
            list(pool.map(Device.quit, self.devices.values()))
        if self.landing is not None:
            self.landing.stop()
        if self.broker is not None:
            self.broker.stop()

    def _configuration(self, url: str) -> str:
        ready = {name: device.ready for name, device in self.devices.items()}
        nodes = ready["furnace"]["nodes"]
        namespace = ready["furnace"]["namespace"]
        prefix = ready["ioc"]["prefix"]
        camera = str(ready["camera"]["prefix"])
        target = f'mqtt = "{self.broker.url}"' if self.broker is not None and self.via == "mqtt" else f'landing = "{url}"'
        return CONFIG.format(
            site=SITE, agent=self.spool, balance=ready["balance"]["path"], furnace=ready["furnace"]["endpoint"],
            nodes=", ".join(f'{{ id = "{_node(namespace, nodes[name])}", name = "{name}" }}' for name in NODES),
            pvs=", ".join(f'{{ pv = "ca://{_pv(ready["ioc"], prefix, name)}", name = "{name}" }}' for name in PVS),
            ca_port=ready["ioc"]["port"],
            camera=camera if camera.endswith(":") else f"{camera}:", pva_port=ready["camera"]["port"],
            vendor=self.folder / "vendor-folder", target=target,
        )  # fmt: skip

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(list(command), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise EdgeAgentError(f"{' '.join(command[2:5])} failed", why=(done.stderr or done.stdout).strip(), code="DEMO_START")
        return done.stdout


def _node(namespace: str, node: str) -> str:
    return node if node.startswith("nsu=") else f"nsu={namespace};{node.partition(';')[2] or node}"


def _pv(ready: dict[str, Any], prefix: str, name: str) -> str:
    return str(ready["pv"].get(name, f"{prefix}:{name}"))
