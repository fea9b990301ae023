"""Canaries of every label at a real broker: live values, announcements and uploads pass it where the label allows, and else nothing does.

Between the agent and the broker sits a tap that keeps every byte which the agent sends: topics, properties, client ids, payloads.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_agent.model import Access, Block, Cause, FileItem, Frame, Gap, Kind, RunContext, Stream
from edge_agent.wire.broker import Broker
from landing.mqtt import MqttDoor
from tests.agent.test_canaries import forms
from tests.agent.test_live import Mosquitto

Configure = Callable[..., Path]
BEHIND, NET = "behind", "net"


@dataclass(frozen=True)
class Case:
    """What an instrument's table says of its label, where its canaries may pass, and what a person says at the start of the session."""

    table: str
    passes: frozenset[str] = frozenset()
    session: Access | None = None


def may(*names: str) -> frozenset[str]:
    return frozenset(names)


CASES = {
    "open": Case('access = "open"\n', may(BEHIND, NET)),
    "nothing-said": Case(""),
    "closed": Case('access = "closed"\n'),
    "closed-for-both": Case('access = "closed"\nallowed = ["behind", "net", "disk"]\n', may(BEHIND, NET)),
    "closed-for-the-target": Case('access = "closed"\nallowed = ["behind", "disk"]\n', may(BEHIND)),
    "closed-for-the-readers": Case('access = "closed"\nallowed = ["net", "disk"]\n', may(NET)),
    "shared-with-nobody": Case('access = "shared"\n'),
    "shared-with-the-target": Case('access = "shared"\nallowed = ["behind", "disk"]\n', may(BEHIND)),
    "embargo": Case('access = "open"\nembargo = "2099-12-31"\n'),
    "stays-in-japan": Case('access = "closed"\nallowed = ["behind", "net", "disk"]\njurisdiction = ["JP"]\n'),
    "closed-by-its-session": Case('access = "open"\n', session=Access.CLOSED),
}
MARKS = {name: f"zq{number}canary{number}" for number, name in enumerate(CASES)}


@dataclass
class Tap:
    """Passes everything on to a port, and keeps what goes there."""

    port: int
    heard: bytearray = field(default_factory=bytearray)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self) -> asyncio.Server:
        self.server = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        return self.server

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await asyncio.gather(self._pump(reader, back, self.heard), self._pump(there, writer, bytearray()))
        finally:
            for end in (writer, back):
                end.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, heard: bytearray) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 16):
                heard += data
                sink.write(data)
                await sink.drain()
        sink.close()


@pytest.fixture
async def taps(tmp_path: Path, landing: Any) -> AsyncIterator[dict[str, Tap]]:
    """One to the broker for the target, whose landing service listens, and one for the live values."""
    broker = Mosquitto(tmp_path / "mosquitto")
    await broker.start()
    made = {name: Tap(broker.port) for name in (BEHIND, NET)}
    for tap in made.values():
        await tap.open()
    service = landing.service
    door = MqttDoor(Broker("127.0.0.1", broker.port), service.receiver, service.book, service.root)
    serving = asyncio.create_task(door.run())
    await door.connected.wait()
    yield made
    serving.cancel()
    await asyncio.wait([serving])
    for tap in made.values():
        await tap.close()
    await broker.kill()


@pytest.mark.slow(12)
async def test_what_passes_a_broker_is_what_the_label_lets_pass(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path, taps: dict[str, Tap]
) -> None:
    (tmp_path / "disk").mkdir()
    instruments = "".join(
        f'[instrument.{MARKS[name]}]\nadapter = "driven"\ncodec = "none"\nmaker = "{MARKS[name]} works"\n{case.table}'
        for name, case in CASES.items()
    )
    targets = (
        f'[target.disk]\nfolder = "{tmp_path / "disk"}"\njurisdiction = "JP"\n'
        f'[target.{BEHIND}]\nmqtt = "{taps[BEHIND].url}"\nproject_space = false\nrequired = false\n'
        f'[live.{NET}]\nsinetstream = "{taps[NET].url}"\nevery = "50 ms"\n'
    )
    agent = await start(configure(instruments, targets))
    runs = {name: agent.desk.start(MARKS[name], **_said(name), access=case.session) for name, case in CASES.items()}
    for name in CASES:
        await _capture(await until(lambda name=name: adapters.SINKS.get(MARKS[name])), MARKS[name], tmp_path)
    await until(lambda: all(MARKS[name].encode() in taps[NET].heard for name, case in CASES.items() if NET in case.passes))
    for name in runs:
        await agent.desk.stop(MARKS[name])
    for name, run in runs.items():
        await until(lambda run=run: (tmp_path / "disk" / run.folder / "ro-crate-metadata.json").exists())
        agent.amending.amend(run.name, {"sample.name": f"{MARKS[name]} iron"}, f"{MARKS[name]} Taro", f"{MARKS[name]} was wrong")

    async def waits() -> bool:
        """Of the runs that may not go there everything waits, crate and receipts for what is parked, and nothing else does."""
        found = {target.name: target for target in (await agent.status()).targets}
        kept = sum(BEHIND not in case.passes for case in CASES.values())
        return (found["disk"].waiting, found[BEHIND].waiting) == (0, 2 * kept) and found[BEHIND].parked >= 6 * kept

    await until(waits)
    announced = [runs[name].folder.encode() + b"/ro-crate" for name, case in CASES.items() if NET in case.passes]
    await until(lambda: all(folder in taps[NET].heard for folder in announced))
    await agent.stop()
    for where, tap in taps.items():
        passed = {name for name, mark in MARKS.items() if any(form in tap.heard for form in forms(mark.encode()))}
        assert passed == {name for name, case in CASES.items() if where in case.passes}, where
        assert not [name for name, run in runs.items() if where not in CASES[name].passes and _traces(run, bytes(tap.heard))], where
    assert all(any(mark.encode() in path.read_bytes() for path in (tmp_path / "disk").rglob("*.nxs")) for mark in MARKS.values())


def _traces(run: RunContext, heard: bytes) -> bool:
    """Whether something tells of a run without saying a name of it."""
    return any(word in heard for word in (run.run_id, run.run_id.hex().encode(), f"/{run.name}/".encode(), f'"{run.name}"'.encode()))


def _said(name: str) -> dict[str, str]:
    mark = MARKS[name]
    # The landing service takes only projects that this agent was enrolled for.
    project = "p" if BEHIND in CASES[name].passes else f"{mark}-project"
    return {"project": project, "user": f"{mark} Hanako", "sample": f"{mark} steel", "title": f"{mark} measurement"}


async def _capture(sink: Any, mark: str, tmp_path: Path) -> None:
    """Rows, frames and a file, each with canaries in names and values."""
    now, value = time.time_ns(), mark.encode().ljust(32)
    rows = sink.open(Stream(mark, f"{mark}.text", Kind.ROWS, "|S32", unit=mark, source_uri=f"driven://{mark}"))
    times = np.array([now], np.int64)
    await rows.put(Block(np.array([value], "|S32"), times, times))
    rows.gap(Gap(Cause.SOURCE, detail=f"{mark} was away"))
    images = sink.open(Stream(mark, f"{mark}.image", Kind.FRAMES, "|u1", (4, 32), counted=True))
    assert images.offer(Frame(np.frombuffer(value * 4, "|u1").reshape(4, 32), 1, now, now))
    sink.describe({"serial_number": f"{mark}-serial"})
    path = tmp_path / f"{mark}.dat"
    path.write_bytes(value)
    await sink.adopt(Stream(mark, f"{mark}.files", Kind.FILES), FileItem(path, path.name, len(value), path.stat().st_mtime_ns, now))
