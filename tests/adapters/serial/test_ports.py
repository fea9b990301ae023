"""The adapter on ptys: what happens on the line and to the plug."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.serial import Reading, SerialAdapter, SerialConfig, Tried, Unparsed, try_parse
from adapters.testing import Connected, Disconnected, Missing, Opened, RecordingSink, Rows
from edge_agent.errors import InstrumentUnreachable
from edge_agent.model import NO_TIME, Cause, Valid, utc_now_ns

TEMPLATE = "X {x:float} {unit:word}"
Run = Callable[..., Any]


def got(count: int, name: str = "x") -> Callable[[RecordingSink], bool]:
    return lambda sink: len(sink.values(name)) >= count


async def test_lines_become_rows_with_the_time_of_their_arrival_and_no_other(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE)
    before = utc_now_ns()
    cable.send(b"X 1.5 mm\r\nX 2.5 mm\r\nX 3.5 mm\r\n")
    await one.sink.until(got(3))
    assert one.sink.values("x").tolist() == [1.5, 2.5, 3.5]
    for block in one.sink.blocks("x"):
        assert set(block.t_source.tolist()) == {NO_TIME}
        assert block.seq is None
        assert all(before <= t <= utc_now_ns() for t in block.t_arrival)
    (opened,) = one.sink.of(Opened)
    assert (opened.stream.key, opened.stream.unit, opened.stream.dtype, opened.stream.counted) == ("bench/x", "mm", "<f8", False)
    assert opened.stream.source_uri == f"serial:{cable.path}"
    assert opened.stream.attributes["line"] == "9600 8N1"


async def test_what_one_read_brings_is_one_block(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE)
    cable.send(b"".join(b"X %d mm\r\n" % i for i in range(100)))
    await one.sink.until(got(100))
    assert one.sink.values("x").tolist() == list(range(100))
    assert len(one.sink.blocks("x")) < 50


async def test_a_new_unit_opens_the_stream_anew_before_its_first_value(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE)
    cable.send(b"X 1 mm\r\nX 2 mm\r\nX 3 um\r\n")
    await one.sink.until(got(3))
    order = [(type(e).__name__, e.stream.unit) for e in one.sink.of(Opened, Rows)]
    assert [one for i, one in enumerate(order) if i == 0 or order[i - 1] != one] == [
        ("Opened", "mm"),
        ("Rows", "mm"),
        ("Opened", "um"),
        ("Rows", "um"),
    ]


async def test_a_configured_unit_goes_before_that_of_the_line(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE, channels={"x": {"unit": "nm", "dtype": "<f4"}})
    cable.send(b"X 1 mm\r\nX 2 um\r\n")
    await one.sink.until(got(2))
    assert [(e.stream.unit, e.stream.dtype) for e in one.sink.of(Opened)] == [("nm", "<f4")]
    assert one.sink.values("x").dtype == np.float32


async def test_a_truncated_line_is_a_gap_between_the_values_around_it(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE)
    cable.send(b"X 1.5 mm\r\nX 2.\r\nX 3.5 mm\r\n")
    await one.sink.until(got(2))
    (gap,) = one.sink.gaps("x")
    assert (gap.cause, gap.count) == (Cause.GARBAGE, 1)
    assert gap.detail == "b'X 2.': does not look as parse or pattern says"
    kinds = [type(e) for e in one.sink.of(Rows, Missing) if e.stream.name == "x"]
    assert kinds == [Rows, Missing, Rows]


async def test_garbage_that_nothing_follows_is_declared_soon(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE)
    cable.send(b"X 1.5 mm\r\n\x80\x81\r\n\x82\x83\r\n")
    await one.sink.until(lambda s: s.gaps("x"))
    assert [(g.cause, g.count, g.detail) for g in one.sink.gaps("x")] == [(Cause.GARBAGE, 2, r"b'\x80\x81': bytes that are not ascii")]


async def test_not_a_number_is_kept_and_marked_as_unusable(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE)
    cable.send(b"X 1.5 mm\r\nX NaN mm\r\nX inf mm\r\n")
    await one.sink.until(got(3))
    valid = np.concatenate([block.valid for block in one.sink.blocks("x")])
    assert valid.tolist() == [Valid.GOOD, Valid.BAD, Valid.BAD]
    assert np.isnan(one.sink.values("x")[1])


async def test_text_channels_are_recorded_as_text(cable: Any, run: Run) -> None:
    one = await run(cable.path)
    cable.send(b"hello\r\nworld 2\r\n")
    # The first line of a line that nobody knows may have lost its beginning, if it came at once.
    await one.sink.until(lambda s: b"world 2" in s.values("line").tolist())
    assert one.sink.of(Opened)[0].stream.dtype == "|S256"


async def test_a_line_that_may_have_lost_its_beginning_is_not_believed(cable: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.serial.reader.QUIET_SECONDS", 3600.0)
    one = await run(cable.path, parse="{x:float} {unit:word}")
    cable.send(b"45.678 g\r\n12345.679 g\r\n")
    await one.sink.until(got(1))
    assert one.sink.values("x").tolist() == [12345.679]
    assert "may have begun before the port was opened" in one.sink.gaps("x")[0].detail


async def test_a_line_that_came_after_a_silence_is_believed(cable: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.serial.reader.QUIET_SECONDS", 0.0)
    one = await run(cable.path, parse="{x:float} {unit:word}")
    cable.send(b"45.678 g\r\n")
    await one.sink.until(got(1))
    assert one.sink.gaps("x") == []


async def test_an_endless_line_is_one_gap_and_the_line_after_it_is_good(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE, max_length=256)
    cable.send(b"X 1 mm\r\n")
    await one.sink.until(got(1))
    await asyncio.to_thread(cable.send, b"y" * 1_000_000)
    await one.sink.until(lambda s: s.gaps("x"))
    cable.send(b"\r\nX 2 mm\r\n")
    await one.sink.until(got(2))
    (gap,) = one.sink.gaps("x")
    assert gap.count == 1
    assert gap.detail.startswith(f"b'{'y' * 60}': no b'\\r\\n' within 256 bytes")


async def test_two_megabytes_of_noise_are_survived_and_told(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE)
    noise = random.Random(3)
    for _ in range(32):
        await asyncio.to_thread(cable.send, noise.randbytes(65536))
    cable.send(b"\r\n" + b"".join(b"X %d mm\r\n" % i for i in range(10)))
    await one.sink.until(got(10), timeout=30)
    assert one.sink.values("x")[-10:].tolist() == list(range(10))
    assert all(gap.cause is Cause.GARBAGE for gap in one.sink.gaps("x"))
    assert 1 <= len(one.sink.gaps("x")) < 20
    told = one.sink.of(Connected, Disconnected)
    assert "what it sends is not understood" in told[1].why
    assert "check baudrate, parity, delimiter and parse" in told[1].why
    assert isinstance(told[-1], Connected)


async def test_a_plug_that_is_pulled_and_put_in_again_costs_one_gap_of_unknown_size(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE)
    cable.send(b"X 1 mm\r\nX 2 mm\r\nX 3")
    await one.sink.until(got(2))
    last = int(one.sink.blocks("x")[-1].t_arrival[-1])
    cable.unplug()
    await one.sink.until(lambda s: s.of(Disconnected))
    pulled = utc_now_ns()
    cable.plug()
    await one.sink.until(lambda s: len(s.of(Connected)) == 2)
    cable.send(b"X 4 mm\r\n")
    await one.sink.until(got(3))
    assert one.sink.values("x").tolist() == [1, 2, 4]
    cut, outage = one.sink.gaps("x")
    assert (cut.cause, cut.count, cut.detail) == (Cause.GARBAGE, 1, "b'X 3': cut off by the end of the connection")
    assert (outage.cause, outage.count, outage.t_from) == (Cause.DISCONNECT, None, last)
    assert last < pulled < outage.t_to <= one.sink.blocks("x")[-1].t_arrival[0]
    assert "the port is gone (unplugged?)" in one.sink.of(Disconnected)[0].why


async def test_a_clock_that_is_set_back_during_an_outage_makes_no_gap_that_ends_before_it_begins(
    cable: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await run(cable.path, parse=TEMPLATE)
    cable.send(b"X 1 mm\r\n")
    await one.sink.until(got(1))
    cable.unplug()
    await one.sink.until(lambda s: s.of(Disconnected))
    monkeypatch.setattr("adapters.serial.reader.utc_now_ns", lambda: utc_now_ns() - 3600 * 10**9)
    cable.plug()
    await one.sink.until(lambda s: len(s.of(Connected)) == 2)
    cable.send(b"X 2 mm\r\n")
    await one.sink.until(got(2))
    (gap,) = one.sink.gaps("x")
    before, after = (int(block.t_arrival[0]) for block in one.sink.blocks("x"))
    assert (gap.cause, gap.count, gap.t_from) == (Cause.DISCONNECT, None, NO_TIME)
    assert gap.t_to <= after < before
    assert f"told to begin at {np.datetime64(before, 'ns')}Z" in gap.detail


async def test_stopping_during_an_outage_declares_it(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE)
    cable.send(b"X 1 mm\r\n")
    await one.sink.until(got(1))
    cable.unplug()
    await one.sink.until(lambda s: s.of(Disconnected))
    await one.stop()
    assert [gap.cause for gap in one.sink.gaps("x")] == [Cause.DISCONNECT]


async def test_a_port_that_is_not_there_is_told_once_and_taken_when_it_appears(make_cable: Any, run: Run) -> None:
    cable = make_cable("late")
    one = await run(cable.path, parse=TEMPLATE, wait=False)
    await one.sink.until(lambda s: s.of(Disconnected))
    cable.plug()
    await one.sink.until(lambda s: s.of(Connected), timeout=20)
    told = {event.why for event in one.sink.of(Disconnected)}
    assert len(told) == len(one.sink.of(Disconnected)) == 1
    (why,) = told
    assert f"there is no {cable.path} (ports found: " in why
    assert "plug it in, or correct port" in why
    cable.send(b"X 1 mm\r\n")
    await one.sink.until(got(1))
    assert one.sink.gaps("x") == []


async def test_a_port_that_another_program_holds_is_told_and_not_shared(cable: Any, run: Run) -> None:
    fd = os.open(cable.path, os.O_RDWR | os.O_NOCTTY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        one = await run(cable.path, parse=TEMPLATE, wait=False)
        await one.sink.until(lambda s: s.of(Disconnected))
    finally:
        os.close(fd)
    assert one.sink.of(Disconnected)[0].why == f"another program has {cable.path} open; close that program"
    await one.sink.until(lambda s: s.of(Connected))


async def test_a_file_that_is_no_port_is_told(tmp_path: Path, run: Run) -> None:
    (tmp_path / "no-port").write_bytes(b"1\r\n")
    one = await run(tmp_path / "no-port", wait=False)
    await one.sink.until(lambda s: s.of(Disconnected))
    assert one.sink.of(Disconnected)[0].why == f"{tmp_path / 'no-port'} is no serial port; correct port"


async def test_a_usb_adapter_that_is_not_there_is_told_by_its_serial_number(run: Run) -> None:
    one = await run("usb:NOBODY-HAS-THIS", wait=False)
    await one.sink.until(lambda s: s.of(Disconnected))
    assert "no USB adapter has the serial number NOBODY-HAS-THIS (found: " in one.sink.of(Disconnected)[0].why


async def test_records_of_a_fixed_length_survive_a_lost_byte(cable: Any, run: Run) -> None:
    one = await run(cable.path, fixed_length=6, parse="<{x:int}>")
    cable.send(b"<0001><0002>")
    await one.sink.until(got(2))
    cable.send(b"<003>")
    await one.sink.until(lambda s: s.gaps("x"))
    cable.send(b"<0004>")
    await one.sink.until(got(3))
    assert one.sink.values("x").tolist() == [1, 2, 4]
    assert "5 of 6 bytes and then silence" in one.sink.gaps("x")[0].detail


async def test_a_recorder_that_is_behind_loses_nothing(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE)
    one.sink.gate.clear()
    await asyncio.to_thread(cable.send, b"".join(b"X %d mm\r\n" % i for i in range(5000)))
    one.sink.gate.set()
    await one.sink.until(got(5000))
    assert one.sink.values("x").tolist() == list(range(5000))
    assert one.sink.gaps("x") == []


async def test_lines_beyond_what_may_wait_are_counted_as_overload(cable: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.serial.reader.MOST_WAITING", 100)
    one = await run(cable.path, parse=TEMPLATE)
    one.sink.gate.clear()
    await asyncio.to_thread(cable.send, b"".join(b"X %d mm\r\n" % i for i in range(5000)))
    one.sink.gate.set()
    await one.sink.until(lambda s: len(s.values("x")) + sum(gap.count for gap in s.gaps("x")) == 5000)
    assert {(gap.cause, gap.detail) for gap in one.sink.gaps("x")} == {(Cause.OVERLOAD, "too many lines waited")}


async def test_a_line_that_falls_silent_for_too_long_is_told_until_it_speaks_again(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse=TEMPLATE, silence="300 ms")
    cable.send(b"X 1 mm\r\n")
    await one.sink.until(got(1))
    await one.sink.until(lambda s: s.of(Disconnected))
    cable.send(b"X 2 mm\r\n")
    await one.sink.until(got(2))
    assert one.sink.of(Disconnected)[0].why == "nothing came for 0.3 s; is it on, is the cable right?"
    assert [gap.cause for gap in one.sink.gaps("x")] == [Cause.DISCONNECT]
    assert len(one.sink.of(Connected)) == 2


async def test_a_preview_shows_the_streams_that_the_lines_have(cable: Any) -> None:
    adapter = SerialAdapter("bench", SerialConfig(port=str(cable.path), parse="X {x:float} {unit:word} {note:word}", on_connect=["go?"]))
    cable.answers[b"go?"] = b"ok\r\n" + b"X 1.5 mm fine\r\n" * 5
    streams = await adapter.preview()
    assert [(s.name, s.unit, s.dtype) for s in streams] == [("x", "mm", "<f8"), ("note", "mm", "|S64")]


async def test_a_preview_of_a_port_that_is_not_there_says_so_at_once(tmp_path: Path) -> None:
    began = asyncio.get_running_loop().time()
    with pytest.raises(InstrumentUnreachable) as refused:
        await SerialAdapter("bench", SerialConfig(port=str(tmp_path / "none"))).preview()
    assert asyncio.get_running_loop().time() - began < 4
    assert refused.value.what == f"{tmp_path / 'none'} gives no value."
    assert "there is no" in refused.value.why
    assert "edge-agent test serial" in refused.value.try_


async def test_a_preview_of_a_silent_line_says_that_nothing_was_sent(cable: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.serial.adapter.PREVIEW_SECONDS", 0.5)
    with pytest.raises(InstrumentUnreachable) as refused:
        await SerialAdapter("bench", SerialConfig(port=str(cable.path), timeout="100 ms")).preview()
    assert refused.value.why == "the port is open, but nothing was sent within 0.6 s"


async def test_trying_shows_each_line_and_how_it_would_be_read(cable: Any) -> None:
    cable.answers[b"go?"] = b"ok\r\nX 1.5 mm\r\nnonsense\r\n"
    tried = try_parse(str(cable.path), TEMPLATE, on_connect=["go?"])
    seen = [await anext(tried) for _ in range(3)]
    await tried.aclose()
    assert seen[1] == Tried(b"X 1.5 mm", Reading((1.5,), ("mm",)), ("x",))
    assert seen[2] == Tried(b"nonsense", Unparsed("does not look as parse or pattern says"), ())


async def test_trying_a_port_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(InstrumentUnreachable, match="gives no lines"):
        await anext(try_parse(str(tmp_path / "none")))
