"""When the pump delivers, by a clock of the test's own."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.epics import pump as pumps
from adapters.epics.events import Lost
from adapters.epics.pump import GATHER_SECONDS, REST_SECONDS, RESTS, Pump


class Slow:
    """A stream whose deliveries take so many seconds of the clock each."""

    def __init__(self, *seconds: float) -> None:
        self.now = 0.0
        self.seconds = list(seconds)
        self.delivered: list[Any] = []

    async def take(self, events: Any) -> None:
        self.now += self.seconds.pop(0)
        self.delivered += events


async def test_the_loop_is_left_alone_for_four_times_as_long_as_a_delivery_took_and_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, rests = Slow(30.0, 0.2, 0.001), asyncio.Queue[float]()
    sleep = asyncio.sleep

    async def rest(seconds: float) -> None:
        if seconds:
            rests.put_nowait(seconds)
        await sleep(0)

    monkeypatch.setattr(pumps, "time", SimpleNamespace(monotonic=lambda: stream.now))
    monkeypatch.setattr(pumps, "asyncio", SimpleNamespace(Event=asyncio.Event, sleep=rest))
    pump = Pump(asyncio.get_running_loop())
    emit = pump.emit(stream)  # type: ignore[arg-type]
    running = asyncio.create_task(pump.run())
    told = [Lost("first", 1), Lost("second", 2), Lost("third", 3)]
    waited = []
    for event in told:
        emit(event)
        waited.append(await asyncio.wait_for(rests.get(), 20))
    running.cancel()
    assert waited == pytest.approx([REST_SECONDS, RESTS * 0.2, GATHER_SECONDS])
    assert stream.delivered == told
