"""Starts simulated instruments as processes of their own and talks to them; standard library only.

Invariants: a device is ready (its ready line was read) inside the `with` block and gone after it; every wait has a
deadline; when something goes wrong, the message carries the end of the device's stderr.

    with Device("balance", "--rate", "10", truth=path, hold=True) as balance:
        connect(balance.ready["path"])
        balance.go()
        ...
        sent = balance.stop()["mass"]
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from firmware_sim.truth import Truth, read_truth

START_SECONDS: Final = 60.0
REPLY_SECONDS: Final = 30.0
STDERR_SHOWN: Final = 2000


class DeviceError(Exception):
    """A simulated instrument did not start, answered with an error, or did not answer in time."""


class Device:
    """One simulated instrument as a subprocess.

    Args:
        name: an instrument, as `firmware-sim --help` lists them, or replay.
        options: further command-line options, as `firmware-sim NAME --help` lists them.
        seed: same seed, same values.
        truth: where the instrument writes what it sent (see `firmware_sim.truth`).
        hold: produce only after `go()`.
        stderr: file that takes the instrument's stderr; a temporary one if not given.
        env: environment of the process; this process's own if not given.
    """

    def __init__(
        self,
        name: str,
        *options: str,
        seed: int = 1,
        truth: Path | None = None,
        hold: bool = False,
        stderr: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.truth = truth
        self.ready: dict[str, Any] = {}
        self._command = [sys.executable, "-m", "firmware_sim", name, *options]
        self._command += ["--seed", str(seed)] if name != "replay" else []
        self._command += ["--truth", str(truth)] if truth else []
        self._command += ["--hold"] if hold else []
        self._env = dict(env if env is not None else os.environ)
        self._stderr_path = stderr
        self._stderr: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.quit()

    @property
    def pid(self) -> int:
        """Process id; raises DeviceError before `start`."""
        return self._running.pid

    @property
    def returncode(self) -> int | None:
        """Exit code of the process, None while it runs."""
        return self._running.poll()

    def read_truth(self) -> Truth:
        """Read what the device has sent so far; raises DeviceError when it writes no truth file."""
        if self.truth is None:
            raise DeviceError(f"{self.name} was started without a truth file; give Device(truth=PATH)")
        return read_truth(self.truth)

    def start(self, within: float = START_SECONDS) -> Self:
        """Start the process and wait for its ready line; raises DeviceError."""
        self._stderr = self._stderr_path.open("w+b") if self._stderr_path else tempfile.TemporaryFile()
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=self._env)
        threading.Thread(target=self._read, daemon=True, name=f"{self.name} stdout").start()
        try:
            self.ready = self.wait_for("ready", within)
        except DeviceError:
            self.kill()
            raise
        return self

    def go(self) -> None:
        """Begin to produce; returns when production has begun."""
        self._say("go")
        self.wait_for("started")

    def stop(self, within: float = REPLY_SECONDS) -> dict[str, int]:
        """Stop producing, keep serving; returns the items sent per stream. The truth file is then complete."""
        self._say("stop")
        return dict(self.wait_for("stopped", within)["sent"])

    def wait_stopped(self, within: float = REPLY_SECONDS) -> dict[str, int]:
        """Wait until production ended by itself (`--count`); returns the items sent per stream."""
        return dict(self.wait_for("stopped", within)["sent"])

    def command(self, text: str) -> dict[str, Any]:
        """Give another command, as `shutter open`, and return its reply; raises DeviceError when it is refused."""
        self._say(text)
        return self.wait_for("did")

    def wait_for(self, key: str, within: float = REPLY_SECONDS) -> dict[str, Any]:
        """Return the next line that has `key`, leaving out others; raises DeviceError on an error line or none in time."""
        deadline = time.monotonic() + within
        while True:
            try:
                line = self._lines.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                raise DeviceError(f"{self.name} printed no {key!r} line within {within:g} s{self._complaint()}") from None
            if line is None:
                self._lines.put(None)
                raise DeviceError(f"{self.name} ended before its {key!r} line{self._complaint()}")
            if key in line:
                return line
            if "error" in line:
                raise DeviceError(f"{self.name} refuses {line.get('command')!r}: {line['error']}")

    def quit(self, within: float = REPLY_SECONDS) -> int | None:
        """End the process by closing its stdin, by force after the deadline; returns its exit code."""
        if self._process is None:
            return None
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass  # it has ended already
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
        self._release()
        return self._process.returncode

    def kill(self) -> None:
        """End the process with SIGKILL, as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._release()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise DeviceError(f"{self.name} was not started; use it in a with statement or call start()")
        return self._process

    def _say(self, text: str) -> None:
        stdin = self._running.stdin
        try:
            if stdin is None:
                raise BrokenPipeError
            stdin.write(text.encode() + b"\n")
            stdin.flush()
        except (BrokenPipeError, ValueError) as e:
            raise DeviceError(f"{self.name} has ended and cannot take {text!r}{self._complaint()}") from e

    def _read(self) -> None:
        stdout = self._running.stdout
        if stdout is not None:
            for line in stdout:
                self._lines.put(json.loads(line))
            stdout.close()
        self._lines.put(None)

    def _complaint(self) -> str:
        if self._stderr is None or self._stderr.closed:
            return ""
        # pread: the process writes through the same file offset, which a seek would move under it.
        fd = self._stderr.fileno()
        text = os.pread(fd, STDERR_SHOWN, max(os.fstat(fd).st_size - STDERR_SHOWN, 0)).decode("utf-8", "replace").strip()
        return f"; it says:\n{text}" if text else ""

    def _release(self) -> None:
        if self._stderr is not None and not self._stderr.closed:
            self._stderr.close()
        if self._process is not None and self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass  # what was still to be written has no reader any more
