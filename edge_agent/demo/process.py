"""A child process that announces itself with one JSON line on standard output."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_agent.errors import EdgeAgentError

START = 60.0


class Child:
    """One process; its standard error goes to ``log``."""

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        """Start it."""
        self.name = name
        self.log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **(env or {})}
            )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, name=f"{name} output", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def ready(self, within: float = START) -> dict[str, Any]:
        """The ready line.

        Raises:
            EdgeAgentError: it ended, or said nothing in time.
        """
        deadline = time.monotonic() + within
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise self._failed(f"said nothing for {within:g} s") from None
            if line is None:
                raise self._failed("ended before it was ready")
            if "ready" in line:
                return line

    def kill(self) -> None:
        """SIGKILL: the crash."""
        self._process.kill()
        self._process.wait()

    def stop(self, within: float = 20.0) -> int:
        """SIGTERM, and SIGKILL when it does not end; its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(within)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        for line in self._process.stdout:
            try:
                value = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(value, dict):
                self._lines.put(value)
        self._lines.put(None)

    def _failed(self, why: str) -> EdgeAgentError:
        tail = self.log.read_text(errors="replace")[-1500:] if self.log.exists() else ""
        return EdgeAgentError(f"{self.name} did not start", why=f"{why}\n{tail}".strip(), try_=f"read {self.log}", code="DEMO_START")


def python(*arguments: str) -> list[str]:
    """This interpreter with ``-m`` and arguments."""
    return [sys.executable, "-m", *arguments]
