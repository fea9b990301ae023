"""Reading ahead while an item goes out."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from edge_agent.deliver.outgoing import OutgoingFile
from edge_agent.deliver.pace import UNLIMITED
from edge_agent.deliver.read_ahead import ReadAhead


class SlowFile:
    """Reads when it is told to."""

    def __init__(self) -> None:
        self.asked, self.go, self.done = threading.Event(), threading.Event(), False

    def read(self, offset: int, size: int) -> bytes:
        self.asked.set()
        self.go.wait()
        self.done = True
        return bytes(size)


async def test_a_request_that_is_cancelled_while_the_file_is_read_leaves_an_end_that_can_be_waited_for() -> None:
    file = SlowFile()
    body = ReadAhead(cast(OutgoingFile, file), 0, 1000, UNLIMITED)

    async def send() -> list[Any]:
        return [block async for block in body]

    sending = asyncio.create_task(send())
    await asyncio.to_thread(file.asked.wait)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    closing = asyncio.create_task(body.close())
    await asyncio.sleep(0)
    assert not closing.done()  # nobody may close the file yet
    file.go.set()
    await closing
    assert file.done
