"""A real S3 store: SeaweedFS from its wheel, on free ports of loopback."""

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

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


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: what the server shows, its key, and the root under which that is trusted."""

    certificate: Path
    key: Path
    root: Path


class Weed:
    """One SeaweedFS server over a folder; speaks HTTPS when it is given ``tls``."""

    def __init__(self, folder: Path, tls: Tls | None = None) -> None:
        self.folder = folder
        self.tls = tls
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
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.ports['s3.port']}"

    def client(self) -> Any:
        """A client of its own, for a look from outside."""
        return botocore.session.Session().create_client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id=KEYS[0], aws_secret_access_key=KEYS[1],
            verify=str(self.tls.root) if self.tls else True, config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )  # fmt: skip

    def start(self) -> None:
        weed = Path(sys.executable).with_name("weed")
        command = [
            str(weed), "server", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-filer", "-s3",
            f"-s3.config={self.folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=500", "-master.volumeSizeLimitMB=64",
            *(f"-{name}={port}" for name, port in self.ports.items()),
            *((f"-s3.cert.file={self.tls.certificate}", f"-s3.key.file={self.tls.key}") if self.tls else ()),
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


@contextlib.contextmanager
def seaweedfs(tls: Tls | None = None, where: str | None = None) -> Iterator[Weed]:
    """One that runs. Its grpc sockets need a short path."""
    folder = Path(tempfile.mkdtemp(prefix="weed", dir=where))
    made = Weed(folder, tls)
    try:
        made.start()
        yield made
    finally:
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)
