"""Stdin and stdout of an instrument: command lines in, one JSON object per line out.

Invariants: nothing but JSON lines reaches the parent (what libraries print to stdout goes to stderr); the end of
stdin, SIGTERM and SIGINT read like the command `quit`, so an instrument never outlives who started it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

MAX_LINE: Final = 4096


class Console:
    """Owns file descriptors 0 and 1; make it before anything that may print."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        # C libraries print banners to descriptor 1, so it is the descriptor that must be moved.
        os.dup2(2, 1)
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()

    def listen(self) -> None:
        """Begin to take commands and signals; inside the running loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._lines.put_nowait, None)
        threading.Thread(target=self._read, args=(loop,), daemon=True, name="stdin").start()

    def end(self) -> None:
        """Behave as if stdin had ended."""
        self._lines.put_nowait(None)

    def say(self, line: Mapping[str, Any]) -> None:
        """Print one JSON line; silently none when the parent no longer reads."""
        try:
            self._out.write(json.dumps(line) + "\n")
            self._out.flush()
        except BrokenPipeError:
            self.end()

    async def lines(self) -> AsyncIterator[str]:
        """Yield commands until the end of stdin or a signal."""
        while (line := await self._lines.get()) is not None:
            if line.strip():
                yield line.strip()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        # os.read instead of sys.stdin: a daemon thread inside a buffered reader aborts the interpreter at exit.
        rest = b""
        while data := _read_some(0):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                _post(loop, self._lines, line[:MAX_LINE].decode("utf-8", "replace"))
            rest = rest[:MAX_LINE]
        _post(loop, self._lines, None)


def _read_some(fd: int) -> bytes:
    try:
        return os.read(fd, 4096)
    except OSError:
        return b""


def _post(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[str | None], line: str | None) -> None:
    try:
        loop.call_soon_threadsafe(queue.put_nowait, line)
    except RuntimeError:
        # The loop has closed: the process is ending and nobody waits for commands.
        return
