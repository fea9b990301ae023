"""Canaries in everything that closed data is made of: no byte that leaves for a destination it may not go to has one.

The destinations are servers that keep every byte which they are sent. What is looked for: each canary as it is, in hex, base64 (all three
alignments), UTF-16 and percent codes.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from edge_agent.metrics import exposition
from edge_agent.model import Frame, ItemKind, Kind, Stream
from edge_agent.segment.levels import verify_path
from edge_agent.wire import envelope

Configure = Callable[..., Path]
MARK = "zq7canary"
ROOT = Path(__file__).parents[2] / "edge_agent"
STORAGES = b'{"data": [{"attributes": {"provider": "osfstorage"}}]}'
VALUE = b"zq7canary-in-the-values!"


class Recorder:
    """A server that is asked anything over HTTP, keeps what it was sent, and answers whatever it is set to."""

    def __init__(self, status: int, body: bytes = b"{}") -> None:
        self.heard, self.calls, self._answer = bytearray(), 0, (status, body)
        self.url = ""
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._talks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status, body = self._answer
        try:
            while piece := await reader.read(1 << 16):
                self.heard += piece
                if b"\r\n\r\n" in piece:
                    self.calls += 1
                    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                    writer.write(head.encode() + body)
                    await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def recorders() -> AsyncIterator[dict[str, Recorder]]:
    made = {"grdm": Recorder(200, STORAGES), "s3": Recorder(503), "tsa": Recorder(500)}
    for recorder in made.values():
        await recorder.open()
    yield made
    for recorder in made.values():
        await recorder.close()


def forms(text: bytes) -> set[bytes]:
    """How a canary may look on the wire."""
    wide = text.decode().encode("utf-16-le")
    found = {text, text.hex().encode(), text.hex().upper().encode(), wide, quote(text).encode()}
    for pad in range(3):
        inner = base64.b64encode(b"\0" * pad + text)
        found.add(inner[4 if pad else 0 : len(inner) // 4 * 4 - 4])
    return found


def leaks(heard: bytes) -> list[bytes]:
    return [form for canary in (MARK.encode(), VALUE) for form in forms(canary) if form in heard]


async def test_no_canary_of_closed_data_leaves_for_a_place_it_may_not_go_to(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path, recorders: dict[str, Recorder],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    (tmp_path / "token").write_text("secret-token")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "ours").mkdir()
    token = f'{{ file = "{tmp_path / "token"}" }}'
    targets = (
        f'[target.ours]\nfolder = "{tmp_path / "ours"}"\njurisdiction = "JP"\n'
        f'[target.elsewhere]\nfolder = "{tmp_path / "elsewhere"}"\n'
        f'[target.abroad]\ngrdm = "{recorders["grdm"].url}"\napi = "{recorders["grdm"].url}/v2"\nnode = "abc12"\ntoken = {token}\n'
        f'[target.bucket]\ns3 = "{recorders["s3"].url}"\nbucket = "bucket"\naccess_key = {token}\nsecret_key = {token}\n'
    )
    head = f'timestamp = {{ tsa = "{recorders["tsa"].url}/tsa", facility = true }}\njurisdiction = ["JP"]\nreasons = ["export_control"]\n'
    camera = f'[instrument.{MARK}]\nadapter = "driven"\ngroup = "{MARK}-group"\ncodec = "none"\nmaker = "{MARK} works"\ntitle = "{MARK} title"\n'
    agent = await start(configure(camera, targets, head))
    sink = await until(lambda: adapters.SINKS.get(MARK))
    sink.describe({"serial_number": f"{MARK}-serial"})
    shape = (8, len(VALUE))
    inlet = sink.open(Stream(MARK, f"{MARK}-image", Kind.FRAMES, "|u1", shape, counted=True))
    run = agent.desk.start(
        f"{MARK}-group", project=f"{MARK}-project", user=f"{MARK} Hanako", sample=f"{MARK} steel", title=f"{MARK} measurement"
    )
    pixels = np.frombuffer(VALUE * 8, "|u1").reshape(shape)
    assert inlet.offer(Frame(pixels, 1, time.time_ns(), time.time_ns()))
    await agent.desk.stop(f"{MARK}-group")
    await until(lambda: (tmp_path / "ours" / run.folder / "ro-crate-metadata.json").exists())
    await until(lambda: recorders["tsa"].calls)

    landed = b"".join(path.read_bytes() for path in (tmp_path / "ours").rglob("*") if path.is_file())
    assert VALUE in landed, "the canaries are real: the values are in what lands"
    assert MARK.encode() in landed

    async def told() -> bool:
        """What may not go there waits."""
        parked = {target.name: target.parked for target in (await agent.status()).targets}
        return all(parked[name] > 3 for name in ("elsewhere", "abroad"))

    await until(told)
    status = await agent.status()
    assert MARK in exposition(status), "on this machine's own screen"
    assert MARK in caplog.text

    await agent.stop()
    assert recorders["tsa"].heard
    for name, recorder in recorders.items():
        assert leaks(bytes(recorder.heard)) == [], name
    assert not list((tmp_path / "elsewhere").rglob("*"))


async def test_a_store_that_others_read_gets_only_what_the_projects_key_opens(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path
) -> None:
    secret, key = envelope.new_key()
    for name in ("ours", "shared", "strict"):
        (tmp_path / name).mkdir()
    targets = (
        f'[target.ours]\nfolder = "{tmp_path / "ours"}"\nencrypt = "never"\n'
        f'[target.shared]\nfolder = "{tmp_path / "shared"}"\n'
        f'[target.strict]\nfolder = "{tmp_path / "strict"}"\nencrypt = "closed"\n'
    )
    head = f'access = "closed"\n[projects.{MARK}-project]\nencrypt_to = ["{key}"]\n'
    agent = await start(configure(head + f'[instrument.{MARK}]\nadapter = "driven"\ncodec = "none"\n', targets))
    sink = await until(lambda: adapters.SINKS.get(MARK))
    shape = (8, len(VALUE))
    inlet = sink.open(Stream(MARK, f"{MARK}-image", Kind.FRAMES, "|u1", shape, counted=True))
    runs = []
    for project in (f"{MARK}-project", f"{MARK}-keyless"):
        runs.append(agent.desk.start(MARK, project=project, user=f"{MARK} Hanako", sample=f"{MARK} steel"))
        assert inlet.offer(Frame(np.frombuffer(VALUE * 8, "|u1").reshape(shape), len(runs), time.time_ns(), time.time_ns()))
        await agent.desk.stop(MARK)
        await until(lambda: (tmp_path / "ours" / runs[-1].folder / "ro-crate-metadata.json").exists())

    async def parked() -> bool:
        """What no key is given for waits where it must be encrypted; everything else is there."""
        found = {target.name: (target.waiting, target.parked) for target in (await agent.status()).targets}
        return found["shared"] == (0, 0) == found["ours"] and found["strict"][1] > 3

    await until(parked)
    await agent.stop()
    ours = tmp_path / "ours" / runs[0].folder
    plain = {path.relative_to(tmp_path / "ours").as_posix(): path.read_bytes() for path in ours.rglob("*") if path.is_file()}
    assert VALUE in b"".join(plain.values()), "the canaries are real"
    for name in ("shared", "strict"):
        held = [path for path in (tmp_path / name).rglob("*") if path.is_file() and runs[1].folder not in path.as_posix()]
        assert len(held) == len(plain)
        told = b"".join(path.relative_to(tmp_path).as_posix().encode() + path.read_bytes() for path in held)
        assert leaks(told) == []
        # Eight bytes and more each: shorter ones come up in a megabyte of ciphertext by chance.
        telling = (runs[0].run_id, runs[0].run_id.hex().encode(), b"ro-crate", b"\x89HDF\r\n\x1a\n")
        assert [word for word in telling if word in told] == []
        assert not [path.name for path in held if path.name.endswith(".nxs")]
        out = tmp_path / f"opened-{name}"
        (tmp_path / "key").write_text(secret)
        opened = [envelope.open_envelope(path, envelope.read_key(tmp_path / "key"), out).path for path in held]
        assert {path.relative_to(out).as_posix(): path.read_bytes() for path in opened} == plain
        (report,) = verify_path(out, None)
        assert report.level == 1, "intact, and signed by an agent that nobody enrolled"
    assert (tmp_path / "shared" / runs[1].folder / "ro-crate-metadata.json").exists(), "no key, and nobody asked for one: as before"
    assert not any(runs[1].folder in path.as_posix() for path in (tmp_path / "strict").rglob("*"))


async def test_whoever_opens_published_data_sees_who_published_the_key_and_nothing_else_is_encrypted_to_it(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path
) -> None:
    secret, key = envelope.new_key()
    (tmp_path / "store").mkdir()
    (tmp_path / "key").write_text(secret)
    head = f'access = "closed"\n[projects.steel]\nencrypt_to = ["{key}"]\n[instrument.cam]\nadapter = "driven"\ncodec = "none"\n'
    agent = await start(configure(head, f'[target.store]\nfolder = "{tmp_path / "store"}"\n'))
    sink = await until(lambda: adapters.SINKS.get("cam"))
    inlet = sink.open(Stream("cam", "image", Kind.FRAMES, "|u1", (4, 4), counted=True))

    async def record(number: int) -> Any:
        agent.desk.start("cam", project="steel")
        assert inlet.offer(Frame(np.zeros((4, 4), "|u1"), number, time.time_ns(), time.time_ns()))
        return await agent.desk.stop("cam")

    def crate_is_there(run: Any) -> bool:
        return any(item.kind is ItemKind.CRATE for item, _ in agent.spool.outbox.encrypted(run.run_id))

    run = await record(1)
    await until(lambda: crate_is_there(run))
    said = await asyncio.to_thread(agent.publishing.publish, "steel", "", "Ada", "the paper is out")
    assert said.runs == (run.name,)
    later = await record(2)

    async def waits() -> bool:
        (target,) = (await agent.status()).targets
        return target.parked > 3

    await until(waits)
    assert agent.spool.outbox.encrypted(later.run_id) == ()
    first, *_ = agent.spool.outbox.items_of_run(later.run_id)
    (delivery,) = agent.spool.outbox.deliveries(first.item_id)
    assert "the key of project steel is published" in delivery.reason
    await agent.stop()
    keys = envelope.read_key(tmp_path / "key")
    for path in (tmp_path / "store").rglob("*.age"):
        envelope.open_envelope(path, keys, tmp_path / "opened")
    (report,) = verify_path(tmp_path / "opened", None)
    (amendment,) = report.amendments
    assert (report.level, amendment.author, amendment.reason) == (1, "Ada", "the paper is out")
    assert [(change.field, change.new) for change in amendment.changes] == [(f"project_key.{key}", "published")]


def test_the_canaries_would_be_found() -> None:
    for text in (MARK.encode(), b"x" + VALUE, base64.b64encode(b"ab" + VALUE), VALUE.hex().encode(), MARK.encode("utf-16-le")):
        assert leaks(b"...." + text + b"....")


OUTWARD = re.compile(
    r"aiohttp\.ClientSession\(|create_connection\(|open_connection\(|mqtt\.Client\(|botocore|boto3|http\.client|urllib\.request|smtplib"
)
DOORS = {
    "deliver": "targets: asked by the engine before every item, and before a witness sees a head",
    "enrolment/client.py": "keys and the agent's name; no data yet",
    "export/invenio.py": "asks before it makes a draft",
    "export/repository.py": "asked by the other doors in export, which get their session there",
    "export/scicat.py": "asks before it registers a run",
    "export/sword.py": "asks before it deposits a run",
    "local_api.py": "a socket on this machine",
    "wire/link.py": "MQTT for the targets in deliver",
    "wire/tls.py": "the certificate of a landing service",
}


def test_every_door_to_the_outside_is_known_and_stands_behind_the_policy() -> None:
    outward = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if OUTWARD.search(path.read_text(encoding="utf-8"))}
    unknown = {path for path in outward if not any(path == door or path.startswith(f"{door}/") for door in DOORS)}
    assert not unknown, f"ask may_send before anything leaves there, then list it here: {unknown}"
    assert "may_send(" in (ROOT / "export/repository.py").read_text()
    assert all("    check(run, " in (ROOT / f"export/{name}.py").read_text() for name in ("invenio", "scicat", "sword"))
    assert "self._gate(" in (ROOT / "deliver/lane.py").read_text()
    assert "gate.decide(" in (ROOT / "agent/targets.py").read_text()
