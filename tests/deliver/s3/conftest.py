"""A real S3 store: SeaweedFS from its wheel, on free ports of loopback; and one that checks nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from edge_agent.deliver.s3 import Lock, S3Target
from edge_agent.deliver.s3_store import Place
from edge_agent.model import Access, ItemKind, Label, OutboxItem

READY = 60.0
"""Seconds that the store may take: a few on an empty folder, some twenty after a crash."""
KEYS = ("AGENTKEY", "agentsecret")
READER = ("READKEY", "readsecret")
PORTS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc",
)  # fmt: skip


def free_ports(n: int) -> list[int]:
    """Ports that nobody has now, below those that the system gives out by itself (so that nobody gets them meanwhile)."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        start = 12000 + (os.getpid() * 64) % 18000
        for port in range(start, 32000):
            if len(found) == n:
                break
            made = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                made.bind(("127.0.0.1", port))
                found.append(port)
    return found


class Weed:
    """One SeaweedFS server over a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        (folder / "data").mkdir()
        actions = {KEYS: ["Admin", "Read", "Write", "List", "Tagging"], READER: ["Read", "List"]}
        who = [
            {"name": keys[0].lower(), "credentials": [{"accessKey": keys[0], "secretKey": keys[1]}], "actions": allowed}
            for keys, allowed in actions.items()
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": who}))
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3.port']}"

    def client(self) -> Any:
        """A client of its own, for a look from outside."""
        return botocore.session.Session().create_client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id=KEYS[0], aws_secret_access_key=KEYS[1],
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )  # fmt: skip

    def start(self) -> None:
        weed = Path(sys.executable).with_name("weed")
        command = [
            str(weed), "server", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-filer", "-s3",
            f"-s3.config={self.folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=500", "-master.volumeSizeLimitMB=64",
            *(f"-{name}={port}" for name, port in self.ports.items()),
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        client, until = self.client(), time.monotonic() + READY
        while True:
            try:
                client.create_bucket(Bucket=f"ready-{uuid.uuid4().hex[:8]}")
                client.close()
                return
            except (ClientError, BotoCoreError):
                assert self.process.poll() is None, self.log.read_text()[-2000:]
                assert time.monotonic() < until, f"not ready after {READY} s: {self.log.read_text()[-2000:]}"
                time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL; a clean end takes it half a minute."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def weed() -> Iterator[Weed]:
    """A store of a module. Its grpc sockets need a short path."""
    folder = Path(tempfile.mkdtemp(prefix="weed"))
    made = Weed(folder)
    try:
        made.start()
        yield made
    finally:
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def bucket(weed: Weed) -> str:
    """A new bucket."""
    name = f"b-{uuid.uuid4().hex[:12]}"
    client = weed.client()
    client.create_bucket(Bucket=name)
    client.close()
    return name


class Memory:
    """What survives a restart of the agent."""

    def __init__(self) -> None:
        self.pairs: dict[str, bytes] = {}

    def put(self, key: str, value: bytes) -> None:
        self.pairs[key] = value

    def delete(self, key: str) -> None:
        self.pairs.pop(key, None)

    def under(self, prefix: str) -> dict[str, bytes]:
        return {key: value for key, value in self.pairs.items() if key.startswith(prefix)}


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def make_target(memory: Memory) -> Callable[..., S3Target]:
    """``make_target(endpoint, bucket, keys=..., part=..., lock=...)``; each call is an agent that was started anew."""

    def make(
        endpoint: str, bucket: str, keys: tuple[str, str] = KEYS, part: int = 5 << 20, lock: Lock | None = None, prefix: str = ""
    ) -> S3Target:
        return S3Target("cloud", Place(endpoint, bucket, "us-east-1", prefix, True, None), lambda: keys, memory, part=part, lock=lock)

    return make


@pytest.fixture
def make_item(tmp_path: Path) -> Callable[..., OutboxItem]:
    """``make_item(data, remote=..., kind=...)``: an item in the spool."""

    def make(data: bytes, remote: str = "p/g/2026-11-26/000001/a.h5", kind: ItemKind = ItemKind.SEGMENT, item_id: str = "a") -> OutboxItem:
        path = tmp_path / f"{item_id}.h5"
        path.write_bytes(data)
        return OutboxItem(item_id, kind, path, remote, len(data), b"\1" * 16, 1, "p", Label(Access.CLOSED))

    return make
