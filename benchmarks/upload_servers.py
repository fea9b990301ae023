"""The other side of `benchmarks.upload`, all behind TLS on loopback: a SeaweedFS, a mosquitto, a landing service with both doors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import ROOT, Impossible
from edge_agent.enrolment import enrol
from edge_agent.enrolment.client import read_token
from firmware_sim.loopback import hold_port
from tests.weed import Tls, seaweedfs

PROJECT = "bench"
BUCKET = "bench"
PATIENCE = 40.0


@dataclass(frozen=True, slots=True)
class Servers:
    """Where they are. ``root`` is a PEM file, ``identity`` the folder of an agent that is enrolled."""

    s3: str
    landing: str
    broker: str
    root: str
    identity: str


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """All of them, until the block ends.

    Raises:
        Impossible: one does not start.
    """
    home = folder / "landing"
    landing("init", str(home), "--name", "bench")
    tls = Tls(home / "keys" / "tls.pem", home / "keys" / "tls.key", home / "root.pem")
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(_mosquitto(folder / "mosquitto", tls))
        url = stack.enter_context(_serve(home, broker, tls))
        asyncio.run(enrol(folder / "identity", read_token(issue_token(home)), "bench"))
        weed = stack.enter_context(seaweedfs(tls, str(folder)))
        client = weed.client()
        client.create_bucket(Bucket=BUCKET)
        client.close()
        yield Servers(weed.endpoint, url, broker, str(tls.root), str(folder / "identity"))


def issue_token(home: Path) -> str:
    """A token for one agent."""
    printed = landing("token", str(home), "--project", PROJECT, "--project", "unclaimed")
    return next(line.split()[-1] for line in printed.splitlines() if line.startswith("edge-agent enroll"))


def landing(*arguments: str) -> str:
    """Run ``python -m landing``; what it printed."""
    done = subprocess.run([sys.executable, "-m", "landing", *arguments], cwd=ROOT, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise Impossible(f"landing {arguments[0]}: {done.stderr}")
    return done.stdout


@contextlib.contextmanager
def _serve(home: Path, broker: str, tls: Tls) -> Iterator[str]:
    command = [sys.executable, "-m", "landing", "serve", str(home), "--keep-free", "0", "--mqtt", broker, "--mqtt-ca", str(tls.root)]
    with (home / "log").open("wb") as log, subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline() or b"{}")
            if not ready.get("mqtt"):
                raise Impossible(f"the landing service does not start: {(home / 'log').read_text()[-2000:]}")
            yield str(ready["url"])
        finally:
            process.terminate()


@contextlib.contextmanager
def _mosquitto(folder: Path, tls: Tls) -> Iterator[str]:
    program = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        raise Impossible("mosquitto is not installed: apt-get install mosquitto")
    folder.mkdir()
    port = hold_port()
    lines = (
        f"listener {port} 127.0.0.1", "allow_anonymous true", "persistence false", "set_tcp_nodelay true", "user root",
        f"certfile {tls.certificate}", f"keyfile {tls.key}", f"cafile {tls.root}",
    )  # fmt: skip
    (folder / "conf").write_text("\n".join(lines) + "\n")
    with (folder / "log").open("wb") as log, subprocess.Popen([program, "-c", str(folder / "conf")], stdout=log, stderr=log) as process:
        try:
            _listening(port)
            yield f"mqtts://127.0.0.1:{port}"
        finally:
            process.kill()


def _listening(port: int) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        if time.monotonic() > end:
            raise Impossible("the broker does not listen")
        time.sleep(0.05)
