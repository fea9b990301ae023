"""The messages that carry an item over MQTT, made a few at a time in a thread: the next ones while those before are on their way.

A piece is hashed twice, for itself and for the item, which takes longer than anything else that happens to it here. A call of a thread
for each would cost as much again: the loop gets its turn at the interpreter only when the network's thread lets go of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.deliver.outgoing import OutgoingFile
from edge_agent.wire.item import ItemHeader
from edge_agent.wire.piece import Piece

AT_ONCE = 4
"""Pieces that are made in one call. Up to twice as many wait in memory."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A message, and how many bytes of the item are in it."""

    size: int
    message: bytes


class PiecesAhead:
    """The pieces of one turn, in order. `close` it before the file is read again."""

    def __init__(
        self, file: OutgoingFile, header: ItemHeader, turn: int, start: int, announced: bytes, room: Callable[[bytes], int]
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            file: the item.
            header: what it is.
            turn: see `Piece`.
            start: where the first piece begins.
            announced: the encoded `SignedItem`, for the piece at 0.
            room: bytes of the item that fit into a message beside an announcement (b"" for none).
        """
        self._file = file
        self._header = header
        self._turn = turn
        self._at = start
        self._announced = announced
        self._room = room
        self._ready: deque[Ready] = deque()
        self._making: asyncio.Task[list[Ready]] | None = None

    async def next(self) -> Ready:
        """The next piece; an empty one only as the first.

        Raises:
            EdgeAgentError: see `OutgoingFile.read`; whatever ``room`` raises.
        """
        if not self._ready:
            making = self._making or self._begin(1)
            # Who is cancelled must not take the reading with it: `close` waits for it.
            self._ready.extend(await asyncio.shield(making))
            self._making = None
        if self._making is None and self._at < self._header.size:
            self._begin(AT_ONCE)
        return self._ready.popleft()

    async def close(self) -> None:
        """Wait for what is being read, of which nobody wants to know any more."""
        if self._making is not None:
            await asyncio.wait([self._making])
            if not self._making.cancelled():
                self._making.exception()

    def _begin(self, count: int) -> asyncio.Task[list[Ready]]:
        item = self._announced if self._at == 0 else b""
        most = self._room(item)
        self._making = asyncio.create_task(asyncio.to_thread(self._make, self._at, most, count, item or None))
        self._at = min(self._at + most * count, self._header.size)
        return self._making

    def _make(self, at: int, most: int, count: int, item: bytes | None) -> list[Ready]:
        made: list[Ready] = []
        while len(made) < count and (not made or at < self._header.size):
            data = self._file.read(at, most)
            piece = Piece(self._header.agent_id, self._header.item_id, at, self._header.size, self._turn, data, item)
            made.append(Ready(len(data), piece.encode()))
            at += len(data)
        return made
