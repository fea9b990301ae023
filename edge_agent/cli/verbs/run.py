"""``edge-agent run --config FILE``: the daemon, in the foreground; a service manager or a terminal starts and stops it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edge_agent.cli.options import ConfigOption
from edge_agent.words import t

if TYPE_CHECKING:
    from edge_agent.config.models import Config

LINGER = 1.0
"""Seconds between the end of the daemon and the end of its process at the latest."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("run", help=t("Capture, sign, keep and deliver, until it is told to stop."))(run)


def run(config: ConfigOption = None) -> int:
    """Run the daemon; SIGTERM and SIGINT close segments and runs and end it."""
    import asyncio

    from edge_agent.cli.options import config_path
    from edge_agent.config.loading import load
    from edge_agent.segment import filters

    filters.forbid()
    loaded = load(config_path(config))
    _log(loaded)
    asyncio.run(_serve(loaded))
    return 0


async def _serve(config: Config) -> None:
    import asyncio
    import gc
    import json
    import os
    import signal
    import threading

    from edge_agent.agent.agent import Agent
    from edge_agent.cli import output
    from edge_agent.local_api import serving
    from edge_agent.service.notify import Notifier

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    agent = Agent(config)
    await agent.start()
    # What the start made stays: a full collection that looks through all of it holds every thread for 20 to 50 ms.
    gc.collect()
    gc.freeze()
    async with serving(agent, Path(config.spool.dir)):
        notifier = Notifier()
        notifier.ready(f"{len(agent.instruments)} instruments")
        output.say(json.dumps({"ready": "edge-agent", "pid": os.getpid(), "spool": str(config.spool.dir), "recovered": agent.recovered}))
        watch = asyncio.create_task(notifier.watch(agent))
        await stop.wait()
        notifier.stopping()
        watch.cancel()
        await agent.stop()
        notifier.close()
    # Everything is closed. What does not listen (a driver that blocks, a long copy) must not hold the process.
    last = threading.Timer(LINGER, os._exit, (0,))
    last.daemon = True
    last.start()


def _log(config: Config) -> None:
    import logging

    from edge_agent.agent.logs import configure

    configure(config.log.level, as_json=config.log.format == "json")
    logging.captureWarnings(True)
