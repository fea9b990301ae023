"""Making the pieces of an item ahead."""

from __future__ import annotations

import asyncio
import threading
from typing import cast

import pytest

from edge_agent.deliver.outgoing import OutgoingFile
from edge_agent.deliver.pieces import AT_ONCE, PiecesAhead
from edge_agent.errors import IntegrityError
from edge_agent.model import Access, ItemKind, Label, OutboxItem
from edge_agent.wire.item import ItemHeader, header_of
from edge_agent.wire.piece import parse_piece

DATA = bytes(range(256)) * 4


def header(size: int = len(DATA)) -> ItemHeader:
    item = OutboxItem("i" * 32, ItemKind.FILE, None, "p/bl/2026-01-01/000001/x", size, b"R" * 16, 1, "p", Label(Access.CLOSED))  # type: ignore[arg-type]
    return header_of(item, b"A" * 16)


class File:
    """Reads when it may, and knows what was asked of it."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data, self.asked, self.go, self.reads = data, threading.Event(), threading.Event(), 0
        self.go.set()

    def read(self, offset: int, size: int) -> bytes:
        self.asked.set()
        self.go.wait()
        self.reads += 1
        if not offset <= len(self.data):
            raise IntegrityError("it is shorter")
        return self.data[offset : offset + size]


def pieces(file: File, start: int = 0, of: ItemHeader | None = None) -> PiecesAhead:
    return PiecesAhead(cast(OutgoingFile, file), of or header(), 7, start, b"announced", lambda item: 100 - len(item))


@pytest.mark.parametrize("start", [0, 300])
async def test_all_bytes_come_once_and_in_order_and_only_the_piece_at_zero_announces_the_item(start: int) -> None:
    ahead, at = pieces(File(), start), start
    while at < len(DATA):
        ready = await ahead.next()
        piece = parse_piece(ready.message)
        assert (piece.offset, piece.turn, piece.total, len(piece.data)) == (at, 7, len(DATA), ready.size)
        assert (piece.data, piece.item) == (DATA[at : at + ready.size], b"announced" if at == 0 else None)
        at += ready.size
    assert at == len(DATA)
    await ahead.close()


async def test_an_item_without_bytes_is_one_empty_piece() -> None:
    ahead = pieces(File(b""), of=header(0))
    ready = await ahead.next()
    assert ready.size == 0
    assert parse_piece(ready.message).item == b"announced"
    await ahead.close()


async def test_the_first_piece_is_made_alone_and_a_few_of_the_next_before_they_are_asked_for() -> None:
    file = File()
    ahead = pieces(file)
    await ahead.next()
    await ahead.close()
    assert file.reads == 1 + AT_ONCE


async def test_whoever_is_cancelled_leaves_an_end_that_can_be_waited_for() -> None:
    file = File()
    file.go.clear()
    ahead = pieces(file)
    asking = asyncio.create_task(ahead.next())
    await asyncio.to_thread(file.asked.wait)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    closing = asyncio.create_task(ahead.close())
    await asyncio.sleep(0)
    assert not closing.done()  # nobody may close the file yet
    file.go.set()
    await closing
    assert file.reads == 1


async def test_what_is_wrong_with_the_file_is_raised_for_the_piece_that_it_concerns() -> None:
    ahead = pieces(File(DATA[:50]), of=header(2 * len(DATA)))
    await ahead.next()
    with pytest.raises(IntegrityError):
        while True:
            await ahead.next()
    await ahead.close()
