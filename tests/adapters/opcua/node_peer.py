"""node-opcua, a server that nobody here wrote and that shares no code with asyncua; for the tests and the benchmark."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.environments import TOOLS
from tests.node import node_with

HERE = Path(__file__).parent
NODE_OPCUA_VERSION = "2.186.4"


def node_program() -> Path:
    """Node.js with node-opcua beside it."""
    return node_with("node-opcua", {"node-opcua": NODE_OPCUA_VERSION})[0]


class NodeServer:
    """`node server.js`: variables of node-opcua, an implementation that shares no code with asyncua."""

    def __init__(self, program: Path, port: int, folder: Path, options: dict[str, Any]) -> None:
        self._command = [str(program), str(HERE / "server.js"), json.dumps({"port": port, **options})]
        self._log = open(folder / f"node-{port}.log", "ab")
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"opc.tcp://127.0.0.1:{port}"
        self.facts: dict[str, Any] = {}

    def start(self, within: float = 60.0) -> None:
        env = {**os.environ, "NODE_PATH": str(TOOLS / "node-opcua/node_modules"), "NODE_NO_WARNINGS": "1"}
        self._process = subprocess.Popen(self._command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, bufsize=0)
        deadline = time.monotonic() + within
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = b""
            while not line.startswith(b"{"):  # node-opcua talks on the same stream
                assert selector.select(deadline - time.monotonic()), "node-opcua did not start"
                line = self._process.stdout.readline() or b'{"error": "it ended"}'
            self.facts = json.loads(line)
        assert self.facts.get("ready"), f"node-opcua did not start: {self.facts}"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def close(self) -> None:
        self.kill()
        self._log.close()
