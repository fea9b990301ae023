"""Ptys and TCP servers that stand for instruments, and adapters that run against them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import tty
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.serial import SerialAdapter, SerialConfig
from adapters.testing import Connected, RecordingSink


class Cable:
    """A pty at a name of its own, as udev gives to a USB adapter; can be pulled out and put in again.

    ``answers`` maps a command (a line) to the bytes that answer it; ``heard`` are the commands, in order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[bytes, bytes] = {}
        self.heard: list[bytes] = []
        self._master = self._slave = -1
        self._thread: threading.Thread | None = None

    def plug(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.path.symlink_to(os.ttyname(self._slave))
        self._thread = threading.Thread(target=self._serve, args=(self._master,))
        self._thread.start()

    def unplug(self) -> None:
        """What a client sees when the plug is pulled: the device is gone, also under its name."""
        if self._thread is None:
            return
        self.path.unlink()
        # Wakes the thread, which sits in a read of the master.
        os.write(self._slave, b"\x04\x04\n")
        self._thread.join()
        self._thread = None
        os.close(self._master)
        os.close(self._slave)

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._master, data) :]

    def _serve(self, master: int) -> None:
        waiting = b""
        while True:
            waiting += os.read(master, 4096)
            *lines, waiting = waiting.replace(b"\r", b"").split(b"\n")
            for line in lines:
                if line == b"\x04\x04":
                    return
                self.heard.append(line)
                if line in self.answers:
                    self.send(self.answers[line])


@pytest.fixture
def make_cable(tmp_path: Path) -> Iterator[Callable[[str], Cable]]:
    cables: list[Cable] = []

    def make(name: str = "port") -> Cable:
        cables.append(Cable(tmp_path / name))
        return cables[-1]

    yield make
    for cable in cables:
        cable.unplug()


@pytest.fixture
def cable(make_cable: Callable[[str], Cable]) -> Cable:
    cable = make_cable("port")
    cable.plug()
    return cable


@pytest.fixture
async def run() -> AsyncIterator[Callable[..., Awaitable[SimpleNamespace]]]:
    """``await run(port, **keys)`` starts an adapter; gives its ``sink`` and ``stop()``."""
    running: list[SimpleNamespace] = []

    async def start(port: object, *, wait: bool = True, **keys: Any) -> SimpleNamespace:
        sink = RecordingSink()
        task = asyncio.create_task(SerialAdapter("bench", SerialConfig(port=str(port), **keys)).run(sink))

        async def stop() -> None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

        running.append(SimpleNamespace(sink=sink, stop=stop))
        if wait:
            await sink.until(lambda s: s.of(Connected))
        return running[-1]

    yield start
    for one in running:
        await one.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a program; it is gone after the test, and its output is shown when it ended before."""
    processes: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(*command: str | Path) -> subprocess.Popen[bytes]:
        log = tmp_path / f"output-{len(processes)}"
        with log.open("wb") as output:
            process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        processes.append((process, log))
        return process

    yield start
    for process, log in processes:
        ended = process.poll()
        process.kill()
        process.wait()
        assert ended in (None, -9), log.read_text(errors="replace")
