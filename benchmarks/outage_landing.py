"""A landing service that can be killed and started again under the same address."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import ROOT, Impossible
from benchmarks.upload_servers import issue_token, landing
from edge_agent.enrolment import enrol
from edge_agent.enrolment.client import read_token


class Landing:
    """Over TLS on loopback, as a process."""

    def __init__(self, folder: Path) -> None:
        """Make it; nothing runs yet."""
        landing("init", str(folder), "--name", "bench")
        self._folder = folder
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Run; returns when it listens."""
        command = [sys.executable, "-m", "landing", "serve", str(self._folder), "--keep-free", "0", "--port", str(self._port)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        ready = json.loads(self._process.stdout.readline() or b"{}")
        if not ready:
            raise Impossible("the landing service does not start")
        self.url, self._port = ready["url"], ready["port"]

    async def enrol(self, keys: Path) -> None:
        """Enrol an agent."""
        await enrol(keys, read_token(issue_token(self._folder)), "bench")

    def kill(self) -> None:
        """SIGKILL; callable twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None
