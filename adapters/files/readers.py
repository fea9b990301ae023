"""Asks `reader` what stands in a vendor's file: one limited process, made anew when it dies or takes too long.

Invariants: nothing of a foreign file is parsed in the agent; what comes back is bounded before it is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SECONDS = 60.0
MOST_BYTES = 1 << 30
"""Of all arrays of one answer."""
MOST_SAID = 1 << 20
DTYPES = frozenset("iufbS")


class Unreadable(Exception):
    """The file is not what it should be; the text says why."""


@dataclass(frozen=True, slots=True)
class Column:
    """An array and what is said of it."""

    about: Mapping[str, Any]
    data: npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a file holds. ``said`` is what the reader says of the whole, as ``facts``."""

    said: Mapping[str, Any]
    columns: tuple[Column, ...]

    @property
    def facts(self) -> dict[str, str | int | float]:
        """What the header says."""
        given = self.said.get("facts", {})
        return {str(k): v for k, v in given.items() if isinstance(v, str | int | float)} if isinstance(given, dict) else {}


class Readers:
    """One reader, begun when it is needed."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def ask(self, path: Path, want: str, **more: Any) -> Answer:
        """Have a file read.

        Raises:
            Unreadable: it is not what it should be, or the reader did not survive it.
        """
        async with self._turn:
            try:
                async with asyncio.timeout(self._seconds):
                    return await self._ask({"path": str(path), "want": want} | more)
            except TimeoutError:
                await self._end()
                raise Unreadable(f"it was not read within {self._seconds:g} s") from None
            except (EOFError, OSError, ValueError, asyncio.LimitOverrunError) as e:
                code = await self._end()
                raise Unreadable(f"the reader did not survive it (exit code {code}): {e}") from e
            except asyncio.CancelledError:
                await self._end()
                raise

    async def stop(self) -> None:
        """End the reader."""
        async with self._turn:
            await self._end()

    async def _ask(self, request: dict[str, Any]) -> Answer:
        if self._process is None:
            # Nothing of the agent's environment: it may hold secrets.
            environment = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "PYTHONPATH", "LANG") if name in os.environ}
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", str(Path(__file__).with_name("reader.py")), stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, limit=MOST_SAID, env=environment,
            )  # fmt: skip
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise EOFError("it has no pipes")
        process.stdin.write(json.dumps(request).encode() + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readuntil(b"\n")
        said = json.loads(line)
        if "error" in said:
            raise Unreadable(str(said["error"]))
        columns, total = [], 0
        for about in said.pop("arrays"):
            dtype, shape = np.dtype(str(about["dtype"])), tuple(int(n) for n in about["shape"])
            size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            total += size
            if dtype.kind not in DTYPES or min((0, *shape)) < 0 or total > MOST_BYTES:
                raise ValueError(f"{total} bytes of {dtype} are more than is taken")
            data = await process.stdout.readexactly(size)
            columns.append(Column(about, np.frombuffer(data, dtype).reshape(shape)))
        return Answer(said, tuple(columns))

    async def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return await process.wait()
