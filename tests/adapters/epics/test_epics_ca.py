"""Channel Access, against the simulated IOC (EPICS base's own server inside)."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from adapters.epics import EpicsAdapter, EpicsConfig
from adapters.epics.events import NS, time_ns
from adapters.testing import Connected, Disconnected, Opened, RecordingSink
from edge_agent.errors import InstrumentUnreachable
from edge_agent.model import NO_TIME, Cause, Valid
from firmware_sim.launch import Device
from firmware_sim.truth import read_truth

StartIoc = Callable[..., Device]
ALL = ("TEMP", "CURRENT", "MOTOR", "SHUTTER", "PROPOSAL", "COUNT", "I0")


def pvs(*names: str) -> list[dict[str, str]]:
    return [{"pv": f"ca://SIM:{name}", "name": name} for name in names]


def idle(*names: str) -> list[dict[str, str]]:
    return [{"pv": f"ca://IDLE:{name}", "name": name} for name in names]


def rows(sink: RecordingSink, name: str) -> list[tuple[Any, int, int]]:
    """(value, source time, valid) of each row."""
    found: list[tuple[Any, int, int]] = []
    for block in sink.blocks(name):
        assert block.valid is not None
        found += list(zip(block.values.tolist(), block.t_source.tolist(), block.valid.tolist(), strict=True))
    return found


async def test_every_value_arrives_with_its_source_time_to_the_nanosecond(ioc: StartIoc, recording: Callable[..., Any]) -> None:
    device = ioc("--rate", "50")
    async with recording(pvs=pvs(*ALL)) as sink:
        await sink.until(lambda s: len({e.stream.name for e in s.of(Opened)}) == len(ALL))
        device.go()
        await sink.until(lambda s: len(s.values("COUNT")) > 60, timeout=20)
        await asyncio.to_thread(device.command, "shutter open")
        sent = device.stop()
        await sink.until(lambda s: all(len(s.values(name)) == count + 1 for name, count in sent.items()))
    assert device.truth is not None
    truth = read_truth(device.truth)
    for name in ALL:
        initial = [(item.v, item.t, Valid.INITIAL) for item in truth.initial if item.stream == name]
        items = [(item.v, item.t, Valid.GOOD) for item in truth.items if item.stream == name]
        got = [(value.decode() if isinstance(value, bytes) else value, t, valid) for value, t, valid in rows(sink, name)]
        assert got == initial + items
        assert not sink.gaps(name)


async def test_streams_carry_unit_type_and_states(idle_ioc: Device, recording: Callable[..., Any]) -> None:
    async with recording(pvs=[*idle("TEMP", "SHUTTER", "PROPOSAL"), {"pv": "ca://IDLE:MOTOR", "name": "MOTOR", "unit": "um"}]) as sink:
        await sink.until(lambda s: len(s.of(Opened)) == 4)
    streams = {event.stream.name: event.stream for event in sink.of(Opened)}
    assert (streams["TEMP"].dtype, streams["TEMP"].unit, streams["TEMP"].source_type) == ("<f8", "K", "ca DOUBLE")
    assert streams["TEMP"].attributes["precision"] == 4
    assert streams["TEMP"].source_uri == "ca://IDLE:TEMP"
    assert (streams["SHUTTER"].dtype, streams["SHUTTER"].attributes["state_1"]) == ("<u2", "open")
    assert streams["PROPOSAL"].dtype == "|S256"
    assert streams["MOTOR"].unit == "um", "what the configuration states wins"


async def test_nan_with_severity_invalid_is_marked_unusable(ioc: StartIoc, recording: Callable[..., Any]) -> None:
    device = ioc("--rate", "20", "--fault", "nan@0.2")
    async with recording(pvs=pvs("TEMP")) as sink:
        await sink.until(lambda s: s.of(Opened))
        device.go()
        await sink.until(lambda s: any(valid == Valid.BAD for _, _, valid in rows(s, "TEMP")) and rows(s, "TEMP.alarm"))
    ((value, _, _),) = [row for row in rows(sink, "TEMP") if row[2] == Valid.BAD]
    assert np.isnan(value)
    text, _, mark = rows(sink, "TEMP.alarm")[0]
    assert (text.split()[0], mark) == (b"INVALID", Valid.GOOD), "an event: it was not there when we came"
    statuses = [status for block in sink.blocks("TEMP") if block.status is not None for status in block.status.tolist()]
    assert max(statuses) >> 16 == 3


async def test_an_outage_of_an_ioc_that_lasts_until_the_end_is_declared_all_the_same(ioc: StartIoc, recording: Callable[..., Any]) -> None:
    device = ioc("--rate", "20", hold=False)
    async with recording(pvs=pvs("TEMP", "COUNT")) as sink:
        await sink.until(lambda s: len(s.values("COUNT")) > 5)
        device.kill()
        await sink.until(lambda s: len(s.of(Disconnected)) == 2, timeout=40)
        assert not sink.gaps("TEMP")
    for name in ("TEMP", "COUNT"):
        (gap,) = sink.gaps(name)
        assert (gap.cause, gap.count) == (Cause.DISCONNECT, None)
        assert gap.t_from < gap.t_to


async def test_an_ioc_killed_and_restarted_leaves_one_declared_gap(ioc: StartIoc, recording: Callable[..., Any]) -> None:
    device = ioc("--rate", "20", hold=False)
    async with recording(pvs=pvs("TEMP", "COUNT")) as sink:
        await sink.until(lambda s: len(s.values("COUNT")) > 5)
        killed = time.time_ns()
        device.kill()
        await sink.until(lambda s: len(s.of(Disconnected)) == 2, timeout=40)
        before = len(sink.values("COUNT"))
        await asyncio.to_thread(ioc, "--rate", "20", hold=False)
        await sink.until(lambda s: len(s.values("COUNT")) > before + 5 and s.gaps("TEMP"), timeout=60)
        back = time.time_ns()
    for name in ("TEMP", "COUNT"):
        (gap,) = sink.gaps(name)
        assert (gap.cause, gap.first, gap.last, gap.count) == (Cause.DISCONNECT, None, None, None)
        assert gap.t_from < killed + NS
        assert killed < gap.t_to < back
    marks = [valid for _, _, valid in rows(sink, "COUNT")]
    assert marks.count(Valid.INITIAL) == 2
    assert {event.source for event in sink.of(Connected)} == {"ca://SIM:TEMP", "ca://SIM:COUNT"}


async def test_a_pv_that_nobody_has_is_reported_and_the_others_go_on(
    idle_ioc: Device, recording: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.epics.ca.CONNECT_SECONDS", 0.5)
    async with recording(pvs=[*idle("TEMP"), "ca://NOBODY:HAS:THIS"]) as sink:
        await sink.until(lambda s: s.of(Disconnected) and len(s.values("TEMP")))
    (event,) = sink.of(Disconnected)
    assert event.source == "ca://NOBODY:HAS:THIS"
    assert event.why.startswith("nobody answered for it")


async def test_preview_of_an_absent_ioc_says_where_was_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.epics.ca.CONNECT_SECONDS", 0.5)
    with pytest.raises(InstrumentUnreachable) as caught:
        await EpicsAdapter("line", EpicsConfig(pvs=["ca://NOBODY:A", "ca://NOBODY:B"])).preview()
    assert caught.value.what == "line: none of its 2 PVs answers"
    assert "ca://NOBODY:A: nobody answered for it" in caught.value.why
    assert "EPICS_CA_ADDR_LIST" in caught.value.why
    assert "addresses = " in caught.value.try_


async def test_preview_lists_what_answers(idle_ioc: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.epics.ca.CONNECT_SECONDS", 1.0)
    table = {"pvs": [*idle("TEMP"), "ca://NOBODY:A"]}
    (stream,) = await EpicsAdapter("line", EpicsConfig.model_validate(table)).preview()
    assert (stream.name, stream.dtype, stream.unit) == ("TEMP", "<f8", "K")


async def test_a_watched_pv_gives_its_value_and_each_change(idle_ioc: Device) -> None:
    watching = EpicsAdapter.watch("ca://IDLE:SHUTTER")
    async with asyncio.timeout(20):
        assert (await anext(watching))[0] == 0.0
        await asyncio.to_thread(idle_ioc.command, "shutter open")
        value, t = await anext(watching)
    await watching.aclose()  # type: ignore[attr-defined]
    assert idle_ioc.truth is not None
    assert (value, t) == [(item.v, item.t) for item in read_truth(idle_ioc.truth).items][-1]


@pytest.mark.parametrize(
    ("seconds", "nanoseconds", "ns"),
    [
        (0, 0, NO_TIME),
        (631_152_000, 0, NO_TIME),
        (631_152_000, 1, 631_152_000 * NS + 1),
        (1_700_000_000, 999_999_999, 1_700_000_000_999_999_999),
    ],
)
def test_a_time_stamp_that_was_never_set_is_no_time(seconds: int, nanoseconds: int, ns: int) -> None:
    assert time_ns(seconds, nanoseconds) == ns


def test_no_repeater_is_started_because_one_stands_in(ca_ports: Iterator[int]) -> None:
    port = int(os.environ["EPICS_CA_REPEATER_PORT"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(struct.pack(">HHHHII", 0x18, 0, 0, 0, 0, 0), ("127.0.0.1", port))
        answer = client.recv(100)
    assert struct.unpack(">HHHHII", answer)[0] == 0x11
