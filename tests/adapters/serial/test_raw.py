"""Bytes beside values: all of them when asked, and always those that are no item."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from adapters.serial.raw import SENT, WIDTH
from adapters.testing import Opened, RecordingSink, Rows

Run = Callable[..., Any]
TEMPLATE = "X {x:float} {unit:word}"


def passed(sink: RecordingSink, name: str, *, sent: bool = False) -> bytes:
    """What docs/serial.md says: the rows of one direction, cut to their counts, one after the other."""
    found = b""
    for block in sink.blocks(name):
        for row, status in zip(block.values, block.status, strict=True):
            if bool(status & SENT) is sent:
                found += row[: status & 0xFF].tobytes()
    return found


async def test_all_bytes_are_kept_beside_the_values_when_asked(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE, raw=True, max_length=200)
    noise = random.Random(1).randbytes(3000)
    data = b"X 1.5 mm\r\n\r\n" + noise + b"\r\nX 2.5 mm\r\nX 3"
    await asyncio.to_thread(cable.send, data)
    await one.sink.until(lambda s: len(passed(s, "raw")) >= len(data))
    assert passed(one.sink, "raw") == data
    assert one.sink.values("x")[-1] == 2.5
    assert one.sink.blocks("garbage") == []
    raw = next(event.stream for event in one.sink.of(Opened) if event.stream.name == "raw")
    assert (raw.dtype, raw.shape, raw.source_type) == ("|u1", (WIDTH,), "serial bytes")
    assert raw.attributes["line"] == "9600 8N1"


async def test_what_was_asked_stands_before_what_was_answered(cable: Any, run: Run) -> None:
    cable.answers[b"READ?"] = b"X 1.5 mm\r\n"
    one = await run(cable.path, parse=TEMPLATE, raw=True, command="READ?", every="20 ms")
    await one.sink.until(lambda s: len(s.values("x")) >= 3)
    rows = [
        (int(status), row[: status & 0xFF].tobytes())
        for b in one.sink.blocks("raw")
        for row, status in zip(b.values, b.status, strict=True)
    ]
    assert [(bool(status & SENT), data) for status, data in rows[:4]] == [
        (True, b"READ?\r\n"), (False, b"X 1.5 mm\r\n"), (True, b"READ?\r\n"), (False, b"X 1.5 mm\r\n"),
    ]  # fmt: skip


async def test_what_is_no_item_is_kept_although_nobody_asked(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE, max_length=64)
    cable.send(b"X 1 mm\r\n")
    await one.sink.until(lambda s: len(s.values("x")) == 1)
    noise = random.Random(2).randbytes(500).replace(b"\r\n", b"")
    await asyncio.to_thread(cable.send, noise + b"\r\nX 2 mm\r\nX oops\r\nX 3 mm\r\n")
    await one.sink.until(lambda s: len(s.values("x")) == 3)
    await one.sink.until(lambda s: len(passed(s, "garbage")) >= len(noise))
    assert passed(one.sink, "garbage") == noise + b"X oops"
    assert sum(gap.count for gap in one.sink.gaps("x")) == 2
    garbage = next(event.stream for event in one.sink.of(Opened) if event.stream.name == "garbage")
    assert garbage.source_type == "serial bytes that are no item"


async def test_a_line_without_garbage_has_no_stream_of_garbage(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE)
    cable.send(b"X 1 mm\r\nX 2 mm\r\n")
    await one.sink.until(lambda s: len(s.values("x")) == 2)
    assert {event.stream.name for event in one.sink.of(Opened, Rows)} == {"x"}


async def test_every_byte_of_many_lines_has_the_time_of_its_read(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE, raw=True)
    data = b"".join(b"X %d mm\r\n" % i for i in range(3000))
    await asyncio.to_thread(cable.send, data)
    await one.sink.until(lambda s: len(s.values("x")) == 3000 and len(passed(s, "raw")) == len(data))
    assert passed(one.sink, "raw") == data
    assert one.sink.values("x").tolist() == list(range(3000))
    times = np.concatenate([block.t_arrival for block in one.sink.blocks("raw")])
    assert (np.diff(times) >= 0).all()
