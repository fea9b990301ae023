"""Part of an item as the body of a request: the next block is read and hashed while the one before is encrypted and sent.

The blocks are small, since each is encrypted in the loop, which has other things to do. What is wrong with the file is raised by `close`:
the HTTP client makes of an exception in a body a broken connection, which it is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from edge_agent.deliver.outgoing import OutgoingFile
from edge_agent.deliver.pace import Pace
from edge_agent.errors import EdgeAgentError

BLOCK = 256 << 10
READ = 2 << 20


class ReadAhead:
    """Bytes ``start`` to ``start + length`` of the item; iterated once."""

    def __init__(self, file: OutgoingFile, start: int, length: int, pace: Pace) -> None:
        """Prepare; nothing is read yet. ``pace`` is how fast they may go."""
        self._file = file
        self._at = start
        self.end = start + length
        self._length = length
        self._pace = pace
        self._reading: asyncio.Task[bytes] | None = None
        self._wrong: EdgeAgentError | None = None

    def __len__(self) -> int:
        """Bytes in all."""
        return self._length

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes, block by block."""
        self._read()
        while self._reading is not None:
            try:
                # A request that breaks is cancelled, and must not take the read with it: the file is closed only after `close`.
                data = await asyncio.shield(self._reading)
            except EdgeAgentError as error:
                self._wrong = error
                raise
            self._at += len(data)
            self._read()
            view = memoryview(data)
            for start in range(0, len(data), BLOCK):
                block = view[start : start + BLOCK]
                if wait := self._pace.delay(len(block)):
                    await asyncio.sleep(wait)
                yield bytes(block)

    async def close(self) -> None:
        """Wait for the block that is being read.

        Raises:
            EdgeAgentError: what was wrong with the file, see `OutgoingFile.read`.
        """
        if self._reading is not None:
            await asyncio.wait([self._reading])
            self._reading.exception()  # it was seen; what the sender has to know is `_wrong`
        if self._wrong is not None:
            raise self._wrong

    def _read(self) -> None:
        self._reading = None
        if self._at < self.end:
            size = min(READ, self.end - self._at)
            self._reading = asyncio.create_task(asyncio.to_thread(self._file.read, self._at, size))
