"""Scalars over PV Access, from a p4p server whose PVs change, vanish and come back."""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from p4p import Type, Value
from p4p.nt import NTEnum, NTScalar, NTTable
from p4p.server.thread import SharedPV

from adapters.epics import EpicsAdapter, EpicsConfig
from adapters.testing import Connected, Disconnected, Opened
from edge_agent.errors import InstrumentUnreachable
from edge_agent.model import NO_TIME, Cause, Valid


@functools.cache
def scalar_type(code: str) -> Type:
    """One type object per code: a PV takes only the very type that it was opened with."""
    return NTScalar(code, display=code == "d").type


def reading(value: Any, t: float, severity: int = 0, status: int = 0, unit: str = "K", code: str = "d") -> Value:
    fields: dict[str, Any] = {
        "value": value,
        "alarm": {"severity": severity, "status": status},
        "timeStamp": {"secondsPastEpoch": int(t), "nanoseconds": round(t % 1 * 1e9)},
    }
    if code == "d":
        fields["display"] = {"units": unit, "limitHigh": 300.0, "description": "sample"}
    return Value(scalar_type(code), fields)


def at(server: Any, **table: Any) -> dict[str, Any]:
    return {"addresses": [f"pva://127.0.0.1:{server.port}"], **table}


async def test_values_times_alarms_and_display_arrive(pv_server: Any, recording: Callable[..., Any]) -> None:
    pv = SharedPV(initial=reading(293.0, 1_700_000_000.25))
    pv_server.start(temp=pv)
    async with recording(**at(pv_server, pvs=[{"pv": "pva://T:temp", "name": "temp"}])) as sink:
        await sink.until(lambda s: len(s.values("temp")) == 1)
        pv.post(reading(294.0, 1_700_000_001.5, severity=2, status=3))
        pv.post(reading(float("nan"), 1_700_000_002.0))
        pv.post(reading(295.0, 0.0, severity=3, status=17))
        await sink.until(lambda s: len(s.values("temp")) == 4)
    stream = sink.of(Opened)[0].stream
    assert (stream.dtype, stream.unit, stream.source_type) == ("<f8", "K", "pva NTScalar")
    assert (stream.attributes["limitHigh"], stream.attributes["description"]) == (300.0, "sample")
    blocks = sink.blocks("temp")
    assert np.array_equal(sink.values("temp"), [293.0, 294.0, np.nan, 295.0], equal_nan=True)
    times = [t for block in blocks for t in block.t_source.tolist()]
    assert times == [1_700_000_000_250_000_000, 1_700_000_001_500_000_000, 1_700_000_002_000_000_000, NO_TIME]
    valid = [v for block in blocks if block.valid is not None for v in block.valid.tolist()]
    assert valid == [Valid.INITIAL, Valid.GOOD, Valid.BAD, Valid.BAD]
    status = [s for block in blocks if block.status is not None for s in block.status.tolist()]
    assert status == [0, 2 << 16 | 3, 0, 3 << 16 | 17]


async def test_enums_arrays_and_texts_have_their_own_forms(pv_server: Any, recording: Callable[..., Any]) -> None:
    pvs = {
        "shutter": SharedPV(nt=NTEnum(), initial={"index": 1, "choices": ["closed", "open"]}),
        "spectrum": SharedPV(nt=NTScalar("aI"), initial=np.arange(5, dtype="u4")),
        "names": SharedPV(nt=NTScalar("as"), initial=["a", "bc"]),
        "note": SharedPV(nt=NTScalar("s"), initial="ü" * 200),
        "flag": SharedPV(nt=NTScalar("?"), initial=True),
    }
    pv_server.start(**pvs)
    async with recording(**at(pv_server, pvs=[{"pv": f"T:{name}", "name": name} for name in pvs], default="pva")) as sink:
        await sink.until(lambda s: all(len(s.values(name)) for name in pvs))
        pvs["spectrum"].post(np.arange(3, dtype="u4"))
        await sink.until(lambda s: len(s.blocks("spectrum")) == 2)
    streams = {event.stream.name: event.stream for event in sink.of(Opened)[: len(pvs)]}
    assert (streams["shutter"].dtype, streams["shutter"].attributes["state_1"]) == ("<i4", "open")
    assert sink.values("shutter").tolist() == [1]
    assert [block.values.tolist() for block in sink.blocks("spectrum")] == [[[0, 1, 2, 3, 4]], [[0, 1, 2]]]
    assert [e.stream.shape for e in sink.of(Opened) if e.stream.name == "spectrum"] == [(5,), (3,)]
    assert sink.values("names").tolist() == [[b"a", b"bc"]]
    assert sink.values("note").tolist() == ["ü".encode() * 128]
    assert [gap.detail for gap in sink.gaps("note")] == ["text longer than 256 bytes cut"]
    assert sink.values("flag").tolist() == [1]


async def test_a_pv_that_goes_and_comes_back_as_another_type_is_opened_anew_after_a_gap(
    pv_server: Any, recording: Callable[..., Any]
) -> None:
    pv = SharedPV(initial=reading(1.0, 1_700_000_000))
    pv_server.start(temp=pv)
    async with recording(**at(pv_server, pvs=[{"pv": "pva://T:temp", "name": "temp"}])) as sink:
        await sink.until(lambda s: len(s.values("temp")) == 1)
        begun = time.time_ns()
        pv.close()
        await sink.until(lambda s: s.of(Disconnected))
        pv.open(reading(7, 1_700_000_009, code="i"))
        await sink.until(lambda s: len(s.blocks("temp")) == 2, timeout=20)
    (gap,) = sink.gaps("temp")
    assert (gap.cause, gap.count) == (Cause.DISCONNECT, None)
    assert gap.t_from <= begun + 1_000_000_000 <= gap.t_to + 1_000_000_000
    assert [event.stream.dtype for event in sink.of(Opened)] == ["<f8", "<i4"]
    assert len(sink.of(Connected)) == 2


async def test_a_server_killed_and_restarted_goes_on(pv_server: Any, recording: Callable[..., Any]) -> None:
    pv = SharedPV(initial=reading(1.0, 1_700_000_000))
    pv_server.start(temp=pv)
    async with recording(**at(pv_server, pvs=[{"pv": "pva://T:temp", "name": "temp"}])) as sink:
        await sink.until(lambda s: len(s.values("temp")) == 1)
        pv_server.stop()
        await sink.until(lambda s: s.of(Disconnected))
        pv_server.start(temp=SharedPV(initial=reading(2.0, 1_700_000_005)))
        await sink.until(lambda s: sink.gaps("temp"), timeout=40)
    assert sink.values("temp").tolist() == [1.0, 2.0]


async def test_a_changed_unit_is_described_anew(pv_server: Any, recording: Callable[..., Any]) -> None:
    pv = SharedPV(initial=reading(1.0, 1_700_000_000))
    pv_server.start(temp=pv)
    async with recording(**at(pv_server, pvs=[{"pv": "pva://T:temp", "name": "temp"}])) as sink:
        await sink.until(lambda s: len(s.values("temp")) == 1)
        pv.post(reading(1.0, 1_700_000_001, unit="mK"))
        await sink.until(lambda s: len(s.values("temp")) == 2)
    assert [event.stream.unit for event in sink.of(Opened)] == ["K", "mK"]


async def test_a_structure_that_is_no_scalar_is_said_so_and_harms_nobody(
    pv_server: Any, recording: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    odd = Type([("value", ("S", None, [("x", "d"), ("y", "d")]))], id="test:point:1.0")
    bare = Type([("x", "d")], id="test:bare:1.0")
    pv_server.start(point=SharedPV(initial=Value(odd, {})), bare=SharedPV(initial=Value(bare, {})), temp=SharedPV(initial=reading(1.0, 9)))
    async with recording(**at(pv_server, pvs=["pva://T:point", "pva://T:bare", "pva://T:temp"])) as sink:
        await sink.until(lambda s: len(s.values("T_temp")) and "has no value" in caplog.text and "as rows" in caplog.text)
    assert "pva://T:bare" in caplog.text
    assert "NTScalar, NTScalarArray, NTEnum, NTTable can" in caplog.text


async def test_updates_beyond_the_bound_are_counted_and_declared(
    pv_server: Any, recording: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.epics.pump.LIMIT", 3)
    pv = SharedPV(initial=reading(0.0, 1_700_000_000))
    pv_server.start(temp=pv)
    async with recording(**at(pv_server, pvs=[{"pv": "pva://T:temp", "name": "temp"}])) as sink:
        await sink.until(lambda s: len(s.values("temp")) == 1)
        sink.gate.clear()
        for i in range(1, 31):
            pv.post(reading(float(i), 1_700_000_000 + i))
            await asyncio.sleep(0.005)
        sink.gate.set()
        await sink.until(lambda s: len(s.values("temp")) + sum(gap.count or 0 for gap in s.gaps("temp")) == 31)
    assert {gap.cause for gap in sink.gaps("temp")} == {Cause.OVERLOAD}


async def test_what_a_full_queue_of_the_library_may_have_merged_is_declared(
    pv_server: Any, recording: Callable[..., Any], goes_on: threading.Event
) -> None:
    pv = SharedPV(initial=reading(0.0, 1_700_000_000))
    pv_server.start(temp=pv)
    async with recording(**at(pv_server, pvs=[{"pv": "pva://T:temp", "name": "temp", "queue": 4}])) as sink:
        for i in range(1, 11):
            await sink.until(lambda s, i=i: len(s.values("temp")) == i)
            pv.post(reading(float(i), 1_700_000_000 + i))
        await sink.until(lambda s: len(s.values("temp")) == 11)
        assert not sink.gaps("temp")
        goes_on.clear()
        for i in range(11, 61):
            pv.post(reading(float(i), 1_700_000_000 + i))
        # The last one is in the server: whoever asks for it gets it.
        assert float(pv.current()["value"]) == 60.0
        goes_on.set()
        await sink.until(lambda s: s.values("temp")[-1] == 60.0 and s.gaps("temp"))
    assert len(sink.values("temp")) < 61
    assert {(gap.cause, gap.count) for gap in sink.gaps("temp")} == {(Cause.OVERLOAD, None)}


async def test_preview_of_an_absent_server_says_where_was_looked(pva_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.epics.adapter.PATIENCE_SECONDS", 0.5)
    config = EpicsConfig(pvs=["pva://T:x"], camera="pva://T:", addresses=[f"pva://127.0.0.1:{pva_port}"])
    with pytest.raises(InstrumentUnreachable) as caught:
        await EpicsAdapter("line", config).preview()
    assert f"pva://T:x: nobody answered for it at 127.0.0.1:{pva_port}" in caught.value.why
    assert "pva://T:Pva1:Image" in caught.value.why


async def test_a_watched_pv_leaves_out_what_the_ioc_calls_invalid(pv_server: Any) -> None:
    pv = SharedPV(initial=reading(0.0, 1_700_000_000))
    pv_server.start(gate=pv)
    watching = EpicsAdapter.watch("pva://T:gate", {"addresses": [f"127.0.0.1:{pv_server.port}"]})
    async with asyncio.timeout(20):
        assert await anext(watching) == (0.0, 1_700_000_000_000_000_000)
        pv.post(reading(9.0, 1_700_000_001, severity=3))
        pv.post(reading(1.0, 1_700_000_002))
        assert await anext(watching) == (1.0, 1_700_000_002_000_000_000)
    await watching.aclose()  # type: ignore[attr-defined]


async def test_a_port_that_never_answers_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.epics.adapter.PATIENCE_SECONDS", 0.5)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(4)
        config = EpicsConfig(image="pva://T:image", addresses=[f"pva://127.0.0.1:{deaf.getsockname()[1]}"])
        with pytest.raises(InstrumentUnreachable, match="none of its 1 PVs answers"):
            async with asyncio.timeout(60):
                await EpicsAdapter("line", config).preview()


async def test_an_alarm_is_told_apart_from_the_value_and_the_connection(pv_server: Any, recording: Callable[..., Any]) -> None:
    pv = SharedPV(initial=reading(293.0, 1_700_000_000))
    pv_server.start(temp=pv)
    async with recording(**at(pv_server, pvs=[{"pv": "pva://T:temp", "name": "temp"}])) as sink:
        await sink.until(lambda s: len(s.values("temp")) == 1)
        stamp = {"secondsPastEpoch": 1_700_000_001, "nanoseconds": 0}
        pv.post(Value(scalar_type("d"), {"alarm": {"severity": 2, "status": 3, "message": "HIHI"}, "timeStamp": stamp}))
        await sink.until(lambda s: len(s.values("temp.alarm")) == 1)
        pv.post(reading(294.0, 1_700_000_002, severity=2, status=3))
        pv.post(reading(295.0, 1_700_000_003))
        await sink.until(lambda s: len(s.values("temp")) == 3 and len(s.values("temp.alarm")) >= 2)
        pv.close()
        await sink.until(lambda s: s.of(Disconnected))
    assert sink.values("temp").tolist() == [293.0, 294.0, 295.0], "an alarm without a value is no row of the value"
    assert sink.values("temp.alarm").tolist()[0] == b"MAJOR HIHI"
    assert sink.values("temp.alarm").tolist()[-1] == b"NO_ALARM"
    first = sink.blocks("temp.alarm")[0]
    assert first.status is not None
    assert (first.status.tolist(), first.t_source.tolist()) == ([2 << 16 | 3], [1_700_000_001_000_000_000])
    assert [event.source for event in sink.of(Disconnected)] == ["pva://T:temp"], "the connection is told once"


async def test_a_table_becomes_a_stream_a_column_and_a_row_a_line(pv_server: Any, recording: Callable[..., Any]) -> None:
    kind = NTTable([("position", "d"), ("state_of_it", "s"), ("count", "i")])
    pv = SharedPV(initial=kind.wrap([{"position": 1.5, "state_of_it": "in", "count": 7}]))
    pv_server.start(table=pv)
    async with recording(**at(pv_server, pvs=[{"pv": "pva://T:table", "name": "table"}])) as sink:
        await sink.until(lambda s: len(s.values("table.count")) == 1)
        pv.post(kind.wrap([{"position": n / 2, "state_of_it": "out", "count": n} for n in range(4)]))
        await sink.until(lambda s: len(s.values("table.count")) == 5)
        pv.post(kind.wrap([]))
        pv.post(kind.wrap([{"position": 9.0, "state_of_it": "end", "count": 9}]))
        await sink.until(lambda s: len(s.values("table.count")) == 6)
    assert sink.values("table.position").tolist() == [1.5, 0.0, 0.5, 1.0, 1.5, 9.0]
    assert sink.values("table.state_of_it").tolist() == [b"in", *[b"out"] * 4, b"end"]
    assert sink.values("table.count").tolist() == [7, 0, 1, 2, 3, 9]
    assert len({event.stream.name for event in sink.of(Opened)}) == 3
    assert len(sink.of(Opened)) == 3, "a table of another length is no other stream"
    lines = [block for block in sink.blocks("table.count") if len(block) == 4]
    assert len(set(lines[0].t_source.tolist())) == 1


@pytest.mark.parametrize("code", "?bBhHiIlLfds")
async def test_every_type_arrives_as_itself_alone_and_in_an_array(code: str, pv_server: Any, recording: Callable[..., Any]) -> None:
    one = "text" if code == "s" else True if code == "?" else 3
    kinds = dict(zip("?bBhHiIlLfd", ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"), strict=True))
    several = ["a", "bc"] if code == "s" else np.array([1, 0, 1], kinds[code])
    pvs = {"one": SharedPV(nt=NTScalar(code), initial=one), "several": SharedPV(nt=NTScalar(f"a{code}"), initial=several)}
    pv_server.start(**pvs)
    async with recording(**at(pv_server, pvs=[{"pv": f"T:{name}", "name": name} for name in pvs], default="pva")) as sink:
        await sink.until(lambda s: all(len(s.values(name)) for name in pvs))
    expected = {
        "?": "|u1", "b": "|i1", "B": "|u1", "h": "<i2", "H": "<u2", "i": "<i4", "I": "<u4", "l": "<i8", "L": "<u8", "f": "<f4", "d": "<f8",
        "s": "|S256",
    }  # fmt: skip
    assert {event.stream.dtype for event in sink.of(Opened)} == {expected[code]}
    assert sink.values("one").tolist() == [b"text" if code == "s" else 1 if code == "?" else 3]
    assert sink.values("several").tolist() == [[b"a", b"bc"] if code == "s" else [1, 0, 1]]
