"""Starts agents quickly: imports everything once, then forks one for each line on its standard input. Run as a program.

A fork is a whole process with its own memory, files and threads, and SIGKILL ends it as any other; only the imports are done. Writes
``{"pid": N}`` for each; what the agent says on standard output comes through the same pipe.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import adapters.epics
import adapters.files
import adapters.opcua
import adapters.serial  # noqa: F401 - to have it imported
import edge_agent.agent.agent
import edge_agent.cli.app
import edge_agent.deliver.landing
import edge_agent.deliver.mqtt
import edge_agent.local_api  # noqa: F401 - to have it imported
from edge_agent.cli import main


def live(config: str) -> None:
    """The child: an agent until it is killed."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os._exit(main(["run", "--config", config]))


if __name__ == "__main__":
    # Those that were killed are reaped by the system.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while sys.stdin.readline():
        child = os.fork()
        if child == 0:
            live(sys.argv[1])
        os.write(1, (json.dumps({"pid": child}) + "\n").encode())
