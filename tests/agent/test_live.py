"""Live values and announcements: what goes out, to whom it does not, and SINETStream's own reader at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_agent.cli.app import run as command
from edge_agent.model import Block, Kind, Stream
from edge_agent.wire.broker import Broker
from edge_agent.wire.link import Message, open_link
from edge_agent.wire.sinetstream import HEADER, topic
from firmware_sim.loopback import hold_port
from tests.environments import environment

Configure = Callable[..., Path]
CANARY = "canary-4711"
STREAM = "weight.raw"
READER = Path(__file__).with_name("read_sinetstream.py")
SINETSTREAM = ("sinetstream==1.10.0", "sinetstream-mqtt==1.10.0")


class Mosquitto:
    """A broker that can be killed and started again; with TLS when it is given a certificate."""

    def __init__(self, folder: Path, *tls: str) -> None:
        folder.mkdir()
        self.port, self.config = hold_port(), folder / "conf"
        self.process: asyncio.subprocess.Process | None = None
        lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", "persistence false", "user root", *tls]
        self.config.write_text("\n".join(lines) + "\n")

    async def start(self) -> None:
        program = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
        assert program, "the Debian package mosquitto is missing: apt-get install mosquitto"
        self.process = await asyncio.create_subprocess_exec(program, "-c", str(self.config), stderr=subprocess.DEVNULL)
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    made = Mosquitto(tmp_path / "mosquitto")
    await made.start()
    yield made
    await made.kill()


class Ears:
    """Somebody who hears everything at the broker."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []

    async def open(self, port: int) -> Any:
        return await open_link(Broker("127.0.0.1", port), ["#"], self.hear)

    async def hear(self, _link: Any, messages: Sequence[Message]) -> None:
        self.heard.extend((message.topic, message.payload) for message in messages)

    def said(self, start: str) -> list[dict[str, Any]]:
        return [json.loads(payload[payload.index(b"{") :]) for name, payload in self.heard if name.startswith(start)]


def instrument(name: str, more: str = "") -> str:
    return f'[instrument.{name}]\nadapter = "driven"\n{more}'


def live(port: int, more: str = "", scheme: str = "mqtt") -> str:
    return f'[live.net]\nsinetstream = "{scheme}://127.0.0.1:{port}"\nevery = "50 ms"\n{more}'


def rows(*values: float) -> Block:
    now = np.full(len(values), time.time_ns(), np.int64)
    return Block(np.array(values, "<f8"), now, now)


async def inlet(adapters: ModuleType, until: Any, name: str, stream: str) -> Any:
    sink = await until(lambda: adapters.SINKS.get(name))
    return sink.open(Stream(name, stream, Kind.ROWS, "<f8", unit="g"))


async def test_open_values_and_landings_go_out_and_closed_ones_leave_no_trace(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, broker: Mosquitto
) -> None:
    ears = Ears()
    link = await ears.open(broker.port)
    tables = instrument("open") + instrument(CANARY, 'access = "closed"\n') + instrument("named", 'access = "closed"\nallowed = ["net", "disk"]\n')
    agent = await start(configure(tables + live(broker.port), head='access = "open"'))
    runs = [agent.desk.start(group, project="p") for group in ("open", CANARY, "named")]
    inlets = [await inlet(adapters, until, name, STREAM) for name in ("open", CANARY, "named")]
    for number in range(3):
        for each in inlets:
            await each.put(rows(float(number), 1000.0 + number))
    await inlets[0].put(rows(float("nan")))
    value = f"BL05/{topic('values', 'open', STREAM)}"
    await until(lambda: any(said["value"] is None for said in ears.said(value)))
    await until(lambda: any(said["value"] == 1002.0 for said in ears.said("BL05/values/named/")))
    for group in ("open", CANARY, "named"):
        await agent.desk.stop(group)
    await until(lambda: {run.name for run in (runs[0], runs[2])} <= {said["run"] for said in ears.said("BL05/landed/p") if said["kind"] == "crate"})
    await link.close()
    assert not any(CANARY.encode() in name.encode() + payload for name, payload in ears.heard)
    assert all(payload.startswith(HEADER) for _, payload in ears.heard)
    assert {name.count("/") for name, _ in ears.heard if "/values/" in name} == {3}
    (one, *_) = ears.said(value)
    assert (one["stream"], one["unit"], one["good"], one["clock"]) == (f"open/{STREAM}", "g", True, "source")


async def test_a_broker_that_is_away_stops_nothing_and_gets_what_landed_meanwhile(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, broker: Mosquitto
) -> None:
    agent = await start(configure(instrument("open") + live(broker.port), head='access = "open"'))
    await broker.kill()
    run = agent.desk.start("open", project="p")
    await (await inlet(adapters, until, "open", "x")).put(rows(1.0))
    await agent.desk.stop("open")

    async def complete() -> bool:
        return not (await agent.status()).runs

    await until(complete)
    await broker.start()
    ears = Ears()
    link = await ears.open(broker.port)
    await until(lambda: any(said["kind"] == "crate" and said["run"] == run.name for said in ears.said("BL05/landed/p")))
    await link.close()


@pytest.mark.slow(15)
@pytest.mark.peers
async def test_the_real_reader_reads_both_with_the_configuration_that_we_write(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, landing: Any, tmp_path: Path
) -> None:
    keys, root = landing.home.keys, landing.home.root
    secure = Mosquitto(tmp_path / "secure", f"certfile {keys / 'tls.pem'}", f"keyfile {keys / 'tls.key'}", f"cafile {root}")
    await secure.start()
    file = configure(instrument("balance") + live(secure.port, f'ca = "{root}"\n', "mqtts"), head='access = "open"')
    command(["export", "sinetstream", "--config", str(file), "--ca", str(root), "--out", str(tmp_path / "reader")])
    # The real library wants an older paho.
    python = (await asyncio.to_thread(environment, "sinetstream", *SINETSTREAM)) / "python"
    readers = [await _reader(python, tmp_path / "reader", service) for service in ("net-values", "net-landed")]
    try:
        agent = await start(file)
        run = agent.desk.start("balance", project="p")
        block = rows(17.25)
        await (await inlet(adapters, until, "balance", STREAM)).put(block)
        name, value, t_us = await _line(readers[0])
        assert name == f"BL05/{topic('values', 'balance', STREAM)}"
        assert json.loads(value)["value"] == 17.25
        assert t_us == int(block.t_source[0]) // 1000
        await agent.desk.stop("balance")
        while json.loads((await _line(readers[1]))[1])["kind"] != "crate":
            pass
        assert run.name
    finally:
        for reader in readers:
            reader.kill()
            await reader.communicate()
        await secure.kill()


async def _reader(python: Path, folder: Path, service: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(python, str(READER), service, cwd=folder, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"ready\n"
    return process


async def _line(reader: asyncio.subprocess.Process) -> Any:
    assert reader.stdout is not None
    async with asyncio.timeout(60):
        return json.loads(await reader.stdout.readline())
