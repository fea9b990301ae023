"""Tells systemd how the daemon is (sd_notify(3)); silent where nobody listens.

The watchdog is fed only while the daemon makes progress: its event loop turns and its recorder's threads live.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from sdnotify import SystemdNotifier

if TYPE_CHECKING:
    from edge_agent.agent.agent import Agent

STATUS_EVERY = 10.0


class Notifier:
    """One daemon's voice."""

    def __init__(self) -> None:
        """Find the socket, if there is one."""
        self._systemd = SystemdNotifier()

    def ready(self, words: str) -> None:
        """Start-up is over."""
        self._systemd.notify(f"READY=1\nSTATUS={words}")

    def stopping(self) -> None:
        """Segments and runs are being closed."""
        self._systemd.notify("STOPPING=1\nSTATUS=closing runs")

    def close(self) -> None:
        """Let go of the socket."""
        if self._systemd.socket is not None:
            self._systemd.socket.close()

    async def watch(self, agent: Agent) -> None:
        """Feed the watchdog for ever, at half the interval that systemd asked for."""
        wanted = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6
        while True:
            if agent.recorder.alive():
                disk = "ok" if agent.disk is None else agent.disk.state.value
                self._systemd.notify(f"WATCHDOG=1\nSTATUS={len(agent.keeper.live)} runs open, disk {disk}")
            await asyncio.sleep(min(wanted or STATUS_EVERY, STATUS_EVERY))
