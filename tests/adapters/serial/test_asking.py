"""Instruments that are asked, over TCP as a device server passes it on: what is said to them, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from adapters.serial import SerialAdapter, SerialConfig
from adapters.testing import Connected, Described, Disconnected, Opened, RecordingSink
from edge_agent.model import Cause, Valid
from firmware_sim.loopback import hold_port

Run = Callable[..., Any]
IDN = b"KEITHLEY INSTRUMENTS,MODEL 2000,0123456,A01\n"


class Meter:
    """A SCPI instrument on loopback. ``answer(command)`` gives the bytes to send back, None for none."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.answer: Callable[[str], bytes | None] = lambda command: IDN if command == "*IDN?" else b"+1.5E+00\n"
        self.changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def port(self) -> str:
        assert self._server is not None
        return f"socket://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    def say(self, data: bytes) -> None:
        self._writers[-1].write(data)

    async def hear(self, count: int, within: float = 30) -> None:
        async with asyncio.timeout(within):
            while len(self.heard) < count:
                self.changed.clear()
                await self.changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        while line := await reader.readline():
            command = line.decode().strip()
            self.heard.append(command)
            self.changed.set()
            answer = self.answer(command)
            if answer is not None:
                writer.write(answer)
        writer.close()


@pytest.fixture
async def meter() -> AsyncIterator[Meter]:
    meter = Meter()
    await meter.start()
    yield meter
    await meter.stop()


def got(count: int) -> Callable[[RecordingSink], bool]:
    return lambda sink: len(sink.values("v")) >= count


ASK = {"profile": "scpi", "command": "READ?", "every": "20 ms", "parse": "{v:float}", "timeout": "500 ms"}


async def test_who_it_is_is_asked_first_and_then_the_value_again_and_again(meter: Meter, run: Run) -> None:
    one = await run(meter.port, **ASK, channels={"v": {"unit": "V"}})
    await one.sink.until(got(3))
    assert meter.heard[:4] == ["*IDN?", "READ?", "READ?", "READ?"]
    assert one.sink.of(Described)[0].facts == {
        "maker": "KEITHLEY INSTRUMENTS",
        "model": "MODEL 2000",
        "serial_number": "0123456",
        "firmware": "A01",
    }
    assert one.sink.of(Opened)[0].stream.unit == "V"
    assert one.sink.values("v")[:3].tolist() == [1.5, 1.5, 1.5]


async def test_commands_without_a_question_mark_are_sent_and_not_waited_for(meter: Meter, run: Run) -> None:
    await run(meter.port, **ASK, on_connect=["*RST", ":CONF:VOLT"])
    await meter.hear(4)
    assert meter.heard[:4] == ["*RST", ":CONF:VOLT", "READ?", "READ?"]


async def test_the_next_question_waits_for_the_answer_to_the_one_before(meter: Meter, run: Run) -> None:
    meter.answer = lambda command: IDN if command == "*IDN?" else None
    await run(meter.port, **ASK | {"timeout": "10 s"})
    await meter.hear(2)
    # Twenty periods without an answer; a second question would have been heard.
    with pytest.raises(TimeoutError):
        await meter.hear(3, within=0.4)
    meter.say(b"2.5\n")
    await meter.hear(3)
    assert meter.heard[1:3] == ["READ?", "READ?"]


async def test_an_answer_that_comes_too_late_is_still_a_value(meter: Meter, run: Run) -> None:
    late = iter([None, b"7.5\n", *[b"1.5\n"] * 10_000])
    meter.answer = lambda command: IDN if command == "*IDN?" else next(late)
    one = await run(meter.port, **ASK)
    await one.sink.until(got(2))
    assert one.sink.values("v")[:2].tolist() == [7.5, 1.5]
    assert one.sink.of(Disconnected) == []


async def test_numbers_that_mean_no_number_are_kept_as_unusable(meter: Meter, run: Run) -> None:
    answers = iter([b"9.9E37\n", b"9.91E37\n", *[b"1.5\n"] * 10_000])
    meter.answer = lambda command: IDN if command == "*IDN?" else next(answers)
    one = await run(meter.port, **ASK)
    await one.sink.until(got(3))
    values, valid = one.sink.values("v")[:3], np.concatenate([block.valid for block in one.sink.blocks("v")])[:3]
    assert values[0] == np.inf
    assert np.isnan(values[1])
    assert valid.tolist() == [Valid.BAD, Valid.BAD, Valid.GOOD]


async def test_an_instrument_that_is_off_is_told_and_greeted_anew_when_it_answers(meter: Meter, run: Run) -> None:
    meter.answer = lambda command: None
    one = await run(meter.port, **ASK | {"timeout": "200 ms"}, wait=False)
    await one.sink.until(lambda s: s.of(Disconnected))
    assert one.sink.of(Disconnected)[0].why.startswith("no answer to 'READ?'")
    assert one.sink.of(Connected) == []
    meter.answer = Meter().answer
    await one.sink.until(lambda s: s.of(Described))
    await one.sink.until(got(2))
    assert meter.heard.count("*IDN?") == 2
    assert len(one.sink.of(Disconnected)) == 1
    assert one.sink.gaps("v") == []  # nothing was known to be missing: no value had come


async def test_answers_that_are_no_numbers_are_gaps_and_the_asking_goes_on(meter: Meter, run: Run) -> None:
    answers = iter([b"1.5\n", b"ERR\n", b"2.5\n", *[b"3.5\n"] * 10_000])
    meter.answer = lambda command: IDN if command == "*IDN?" else next(answers)
    one = await run(meter.port, **ASK)
    await one.sink.until(got(3))
    assert one.sink.values("v")[:3].tolist() == [1.5, 2.5, 3.5]
    assert [(gap.cause, gap.count) for gap in one.sink.gaps("v")] == [(Cause.GARBAGE, 1)]


async def test_a_device_server_that_is_not_there_is_told_once_and_dialled_until_it_is(meter: Meter, run: Run) -> None:
    await meter.stop()
    port = hold_port()
    one = await run(f"socket://127.0.0.1:{port}", **ASK, wait=False)
    await one.sink.until(lambda s: s.of(Disconnected))
    await meter.start(port)
    await one.sink.until(got(1), timeout=60)
    assert [event.why for event in one.sink.of(Disconnected)] == [
        "nobody listens there (connection refused); look whether the device server is on and the port number is right"
    ]


async def test_a_recorder_that_is_behind_is_not_mistaken_for_a_silent_instrument(meter: Meter, run: Run) -> None:
    one = await run(meter.port, **ASK)
    await one.sink.until(got(1))
    one.sink.gate.clear()
    before = len(meter.heard)
    await meter.hear(before + 10)  # each was answered, though nobody took the values
    one.sink.gate.set()
    await one.sink.until(got(10))
    assert one.sink.of(Disconnected) == []


async def test_stopping_gives_the_port_back_at_once(meter: Meter) -> None:
    task = asyncio.create_task(SerialAdapter("m", SerialConfig(port=meter.port, **ASK)).run(RecordingSink()))
    await meter.hear(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(20):
            await task


@pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")
@pytest.mark.parametrize("nonsense", [b"\xff\xf0", b"\xff\xfa" + b"\xff\xf0" * 9, b"\xff" * 4096, b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_a_server_that_speaks_no_rfc_2217_is_told_and_dialled_again(run: Run, nonsense: bytes) -> None:
    dialled = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dialled
        dialled += 1
        writer.write(nonsense)
        while await reader.read(4096):
            pass
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"rfc2217://127.0.0.1:{server.sockets[0].getsockname()[1]}?timeout=0.3"
        one = await run(url, wait=False)
        await one.sink.until(lambda s: s.of(Disconnected) and dialled >= 2, timeout=60)
        await one.stop()
    assert one.sink.of(Connected) == []
    wanted = "it does not speak RFC 2217; look at the settings of the device server, or use socket:// for raw TCP"
    assert wanted in [event.why for event in one.sink.of(Disconnected)]
