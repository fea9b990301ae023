"""Starts the daemon of a configuration and says what its start did: Python and C calls of all threads, files opened, folders listed.

    python -m tests.agent.startup_child AGENT.toml

Prints ``{"calls": N, "opened": [...], "listed": N}``, paths relative to the spool.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.startup import begin
from edge_agent.config.loading import load


def main(config: Path) -> None:
    """Start, count, stop, say."""
    spool = load(config).spool.dir
    events: Counter[str] = Counter()
    opened: list[str] = []
    counting = True

    def call(frame: Any, event: str, argument: Any) -> None:
        events["call" if event in ("call", "c_call") else event] += 1

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if not counting or event not in ("open", "os.listdir", "os.scandir") or not isinstance(arguments[0], str | Path):
            return
        path = Path(arguments[0])
        if path.is_relative_to(spool):
            events[event] += 1
            opened.extend([str(path.relative_to(spool))] if event == "open" else [])

    async def start_and_stop() -> None:
        nonlocal counting
        sys.addaudithook(audit)
        threading.setprofile(call)
        sys.setprofile(call)
        agent = await begin(config)
        sys.setprofile(None)
        counting = False
        await agent.stop()

    asyncio.run(start_and_stop())
    print(json.dumps({"calls": events["call"], "opened": opened, "listed": events["os.listdir"] + events["os.scandir"]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
