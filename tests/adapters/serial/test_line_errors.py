"""Breaks, parity errors and overruns. A pty has none and counts none: what the driver of a UART counts is given here as its struct, and
what a device server tells comes over a real RFC 2217 connection."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.serial import ports
from adapters.serial.line_errors import LineErrors, counted_by_driver, from_counters, from_line_state
from adapters.testing import RecordingSink
from edge_agent.model import Cause

Run = Callable[..., Any]
IAC, SB, SE, WILL, WONT, DO, DONT = b"\xff", b"\xfa", b"\xf0", 251, 252, 253, 254


def test_the_counters_of_the_driver_are_read_as_the_kernel_lays_them_out() -> None:
    counters = struct.pack("=11i9i", 1, 2, 3, 4, 500, 600, 7, 8, 9, 10, 11, *[0] * 9)
    assert from_counters(counters) == LineErrors(breaks=10, parity=9, framing=7, overrun=8, buffer=11)


def test_counters_that_wrap_are_still_differences() -> None:
    assert LineErrors(parity=1).since(LineErrors(parity=-1)) == LineErrors(parity=2)


def test_a_pty_counts_nothing_and_says_so() -> None:
    master, slave = os.openpty()
    try:
        assert counted_by_driver(slave) is None
    finally:
        os.close(master)
        os.close(slave)


def test_wrong_bytes_and_lost_bytes_have_causes_of_their_own() -> None:
    assert LineErrors(1, 2, 0, 0, 3).told() == [
        (Cause.GARBAGE, "1 break, 2 parity errors"),
        (Cause.OVERFLOW, "3 overruns of the driver's buffer"),
    ]
    assert from_line_state(0b11110) == LineErrors(1, 1, 1, 1, 0)


async def test_what_the_driver_counts_becomes_gaps(cable: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = iter([LineErrors(parity=5), LineErrors(parity=7, overrun=1)])
    last = LineErrors(parity=7, overrun=1)
    monkeypatch.setattr(ports, "counted_by_driver", lambda fd: next(counted, last))
    one = await run(cable.path, parse="X {x:float}")
    cable.send(b"X 1\r\n")
    await one.sink.until(lambda s: len(s.values("x")) == 1)
    await one.sink.until(lambda s: len(s.gaps("x")) == 2)
    assert [(gap.cause, gap.count, gap.detail) for gap in one.sink.gaps("x")] == [
        (Cause.GARBAGE, None, "2 parity errors on the line"),
        (Cause.OVERFLOW, None, "1 overrun of the UART on the line"),
    ]
    assert all(gap.t_from < gap.t_to for gap in one.sink.gaps("x"))


class DeviceServer:
    """RFC 2217 as far as pyserial asks: everything is agreed to, and the state of the line can be told."""

    def __init__(self) -> None:
        self.mask = b""
        self.writer: asyncio.StreamWriter | None = None

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        try:
            while True:
                byte = await reader.readexactly(1)
                if byte != IAC:
                    continue
                command = (await reader.readexactly(1))[0]
                if command in (WILL, DO):
                    option = await reader.readexactly(1)
                    writer.write(IAC + bytes((DO if command == WILL else WILL,)) + option)
                elif command in (WONT, DONT):
                    await reader.readexactly(1)
                elif command == SB[0]:
                    body = (await reader.readuntil(IAC + SE))[:-2]
                    if body[1:2] == b"\x0a":
                        self.mask = body[2:]
                    writer.write(IAC + SB + body[:1] + bytes((body[1] + 100,)) + body[2:] + IAC + SE)
        except asyncio.IncompleteReadError:
            writer.close()

    def tell(self, state: int) -> None:
        assert self.writer is not None
        self.writer.write(IAC + SB + b"\x2c\x6a" + bytes((state,)) + IAC + SE)


@pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")
async def test_what_a_device_server_tells_of_the_line_becomes_gaps(run: Run) -> None:
    device = DeviceServer()
    async with await asyncio.start_server(device.talk, "127.0.0.1", 0) as server:
        one = await run(f"rfc2217://127.0.0.1:{server.sockets[0].getsockname()[1]}", parse="X {x:float}")
        assert device.writer is not None
        device.writer.write(b"\r\nX 1\r\n")
        await one.sink.until(lambda s: len(s.values("x")) == 1)
        assert device.mask == b"\x1e"
        device.tell(0b10100)
        device.tell(0b00010)
        await one.sink.until(lambda s: {gap.cause for gap in s.gaps("x")} == {Cause.GARBAGE, Cause.OVERFLOW})
        assert "1 break, 1 parity error on the line" in [gap.detail for gap in one.sink.gaps("x")]
        await one.stop()


async def test_a_usb_adapter_is_found_by_its_serial_number_wherever_it_is_plugged_in(
    cable: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [SimpleNamespace(serial_number="A9XYZ", device=str(cable.path)), SimpleNamespace(serial_number=None, device="/dev/ttyS9")]
    monkeypatch.setattr("adapters.serial.ports.list_ports.comports", lambda: there)
    one = await run("usb:A9XYZ", parse="X {x:float}")
    cable.send(b"X 1\r\n")
    await one.sink.until(lambda s: len(s.values("x")) == 1)
    cable.unplug()
    await one.sink.until(lambda s: s.gaps("x") or (len(s.events) and _down(s)))
    cable.path = tmp_path / "elsewhere"
    there[0] = SimpleNamespace(serial_number="A9XYZ", device=str(cable.path))
    cable.plug()
    await one.sink.until(_up_again)
    cable.send(b"X 2\r\n")
    await one.sink.until(lambda s: s.values("x").tolist() == [1, 2])


def _down(sink: RecordingSink) -> bool:
    from adapters.testing import Disconnected

    return bool(sink.of(Disconnected))


def _up_again(sink: RecordingSink) -> bool:
    from adapters.testing import Connected

    return len(sink.of(Connected)) >= 2
