"""The adapter against EPICS servers that nobody here wrote: pvapy's simulated areaDetector, and softIocPVA of EPICS Base."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aioca
import numpy as np
import pytest

from adapters.testing import Connected, Disconnected, Opened, Restarted
from edge_agent.model import NO_TIME, Cause, Valid

pytestmark = pytest.mark.peers

Start = Callable[..., subprocess.Popen[bytes]]

DATABASE = """
record(calc, "P:COUNT") { field(SCAN, ".1 second") field(CALC, "VAL+1") field(EGU, "n") field(HIHI, "1000000") field(DESC, "counts") }
record(ai, "P:NEVER") { field(EGU, "V") }
record(bo, "P:GATE") { field(ZNAM, "shut") field(ONAM, "open") field(PINI, "YES") }
record(stringin, "P:NAME") { field(VAL, "lysozyme") field(PINI, "YES") }
record(waveform, "P:WAVE") { field(FTVL, "FLOAT") field(NELM, "4") field(INP, "[1.5, 2.5, 3.5]") field(PINI, "YES") }
"""


@pytest.fixture
def soft_ioc(program: Start, soft_ioc_program: Path, tmp_path: Path) -> Callable[[], subprocess.Popen[bytes]]:
    """Start softIocPVA with the database; records over both protocols."""
    (tmp_path / "peer.db").write_text(DATABASE)
    return lambda: program(soft_ioc_program, "-d", "peer.db")


@pytest.mark.parametrize("scheme", ["ca", "pva"])
async def test_one_ioc_looks_the_same_over_both_protocols(
    scheme: str, soft_ioc: Callable[[], Any], recording: Callable[..., Any], pva_port: int
) -> None:
    soft_ioc()
    names = ("COUNT", "NEVER", "GATE", "NAME", "WAVE")
    pvs = [{"pv": f"{scheme}://P:{name}", "name": name} for name in names]
    async with recording(pvs=pvs, addresses=[f"pva://127.0.0.1:{pva_port}"]) as sink:
        await sink.until(lambda s: len(s.values("COUNT")) > 15 and all(len(s.values(name)) for name in names), timeout=40)
    streams = {event.stream.name: event.stream for event in sink.of(Opened)}
    assert (streams["COUNT"].dtype, streams["COUNT"].unit) == ("<f8", "n")
    assert set(np.diff(sink.values("COUNT"))) == {1.0}
    times = np.concatenate([block.t_source for block in sink.blocks("COUNT")])
    assert np.allclose(np.diff(times) / 1e9, 0.1, atol=0.09)
    never = sink.blocks("NEVER")[0]
    assert never.valid is not None
    assert (never.valid[0], never.t_source[0]) == (Valid.BAD, NO_TIME), "a record that was never processed has no time and no value"
    assert streams["GATE"].attributes["state_1"] == "open"
    assert sink.values("NAME")[0] == b"lysozyme"
    assert sink.values("WAVE")[0].tolist() == [1.5, 2.5, 3.5]
    assert not any(sink.gaps(name) for name in names)


async def test_a_pv_is_reached_by_the_protocol_that_answers(
    soft_ioc: Callable[[], Any], program: Start, recording: Callable[..., Any], pva_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.epics.auto.HEAD_START_SECONDS", 1.5)
    monkeypatch.setattr("adapters.epics.ca.CONNECT_SECONDS", 3.0)
    soft_ioc()
    async with recording(pvs=["pva://P:COUNT"], addresses=[f"pva://127.0.0.1:{pva_port}"]) as sink:
        await sink.until(lambda s: len(s.values("P_COUNT")), timeout=40)
    # For the second, PV Access is looked for where nobody is.
    for addresses, kind in (([f"pva://127.0.0.1:{pva_port}"], "pva NTScalar"), (["pva://127.0.0.1:1"], "ca DOUBLE")):
        async with recording(pvs=["auto://P:COUNT", "auto://P:ABSENT"], addresses=addresses) as sink:
            await sink.until(lambda s: len(s.values("P_COUNT")) > 3 and s.of(Disconnected), timeout=40)
        stream = sink.of(Opened)[0].stream
        assert (stream.source_type, stream.source_uri) == (kind, f"{kind[:3].strip()}://P:COUNT")
        assert set(np.diff(sink.values("P_COUNT"))) == {1.0}
        assert {event.source for event in sink.of(Disconnected)} == {"auto://P:ABSENT"}
        assert {event.source for event in sink.of(Connected)} == {"auto://P:COUNT"}


@pytest.mark.parametrize("scheme", ["ca", "pva"])
async def test_an_ioc_that_is_killed_and_comes_back_leaves_a_gap(
    scheme: str, soft_ioc: Callable[[], Any], recording: Callable[..., Any], pva_port: int
) -> None:
    ioc = soft_ioc()
    async with recording(pvs=[{"pv": f"{scheme}://P:COUNT", "name": "COUNT"}], addresses=[f"pva://127.0.0.1:{pva_port}"]) as sink:
        await sink.until(lambda s: len(s.values("COUNT")) > 3, timeout=40)
        os.killpg(ioc.pid, signal.SIGKILL)
        await sink.until(lambda s: s.of(Disconnected), timeout=40)
        soft_ioc()
        before = len(sink.values("COUNT"))
        await sink.until(lambda s: len(s.values("COUNT")) > before + 3, timeout=60)
    assert [(gap.cause, gap.count) for gap in sink.gaps("COUNT")] == [(Cause.DISCONNECT, None)]


async def test_what_is_changed_at_a_record_is_described_anew_and_its_alarm_recorded(
    soft_ioc: Callable[[], Any], recording: Callable[..., Any]
) -> None:
    ioc = soft_ioc()
    async with recording(pvs=[{"pv": "ca://P:COUNT", "name": "COUNT"}]) as sink:
        await sink.until(lambda s: len(s.values("COUNT")) > 3, timeout=40)
        ioc.stdin.write(b"dbpf P:COUNT.EGU mA\ndbpf P:COUNT.HIHI 0\ndbpf P:COUNT.HHSV MAJOR\n")
        ioc.stdin.flush()
        await sink.until(lambda s: any(e.stream.unit == "mA" for e in s.of(Opened)) and len(s.values("COUNT.alarm")), timeout=30)
        before = len(sink.values("COUNT"))
        await sink.until(lambda s: len(s.values("COUNT")) > before + 3)
    described = [event.stream for event in sink.of(Opened) if event.stream.name == "COUNT"]
    assert described[0].unit == "n"
    assert described[0].attributes["description"] == "counts"
    assert sink.values("COUNT.alarm").tolist() == [b"MAJOR HIHI"]
    assert set(np.diff(sink.values("COUNT"))) == {1.0}
    assert not sink.gaps("COUNT")


def detector(start: Start, command: Path, *options: str) -> subprocess.Popen[bytes]:
    """Frames of 256 x 128 uint8 from a small cache, long enough for a test."""
    sizes = ["-nx", "256", "-ny", "128", "-dt", "uint8", "-nf", "10", "-cs", "10", "-rt", "60", "-rp", "1000000", "-std", "1"]
    return start(command, "-cn", "P:Pva1:Image", *sizes, *options)


async def test_a_foreign_detector_at_200_frames_per_second_arrives_whole(
    program: Start, detector_program: Path, recording: Callable[..., Any], pva_port: int
) -> None:
    detector(program, detector_program, "-fps", "200")
    async with recording(image="pva://P:Pva1:Image", addresses=[f"pva://127.0.0.1:{pva_port}"]) as sink:
        await sink.until(lambda s: len(s.frames("image")) > 300, timeout=60)
    frames = sink.frames("image")
    assert (frames[0].data.shape, frames[0].data.dtype.str) == ((128, 256), "|u1")
    numbers = [frame.number for frame in frames]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert all(frame.t_arrival - frame.t_source < 10**10 for frame in frames)
    assert len({frame.data.tobytes() for frame in frames[:40]}) > 5, "the images differ, as the cache has several"


async def test_a_foreign_detector_that_is_there_before_us_is_found_at_once(
    program: Start, detector_program: Path, recording: Callable[..., Any], pva_port: int
) -> None:
    detector(program, detector_program, "-fps", "20")
    async with recording(image="pva://P:Pva1:Image", addresses=[f"pva://127.0.0.1:{pva_port}"]) as sink:
        await sink.until(lambda s: s.frames("image"), timeout=60)
    for _ in range(3):
        async with recording(image="pva://P:Pva1:Image", addresses=[f"pva://127.0.0.1:{pva_port}"]) as sink:
            await sink.until(lambda s: len(s.frames("image")) > 1, timeout=5)


async def test_a_foreign_detector_killed_and_restarted_is_a_new_count(
    program: Start, detector_program: Path, recording: Callable[..., Any], pva_port: int
) -> None:
    first = detector(program, detector_program, "-fps", "200")
    async with recording(image="pva://P:Pva1:Image", addresses=[f"pva://127.0.0.1:{pva_port}"]) as sink:
        await sink.until(lambda s: len(s.frames("image")) > 400, timeout=60)
        os.killpg(first.pid, signal.SIGKILL)
        await sink.until(lambda s: s.of(Disconnected), timeout=40)
        await asyncio.to_thread(detector, program, detector_program, "-fps", "10")
        before = len(sink.frames("image"))
        await sink.until(lambda s: len(s.frames("image")) > before + 5, timeout=60)
    (restart,) = sink.of(Restarted)
    assert restart.reset.first < restart.reset.last
    assert [(gap.cause, gap.count) for gap in sink.gaps("image")] == [(Cause.DISCONNECT, None)]


@pytest.mark.parametrize("element", ["STRING", "CHAR", "SHORT", "LONG", "FLOAT", "DOUBLE"])
async def test_arrays_and_texts_of_every_type_come_as_they_are_over_channel_access(
    element: str, program: Start, soft_ioc_program: Path, tmp_path: Path, recording: Callable[..., Any]
) -> None:
    values = '["a", "bc", "d"]' if element == "STRING" else "[7, 0, 9]"
    (tmp_path / "types.db").write_text(
        f'record(waveform, "P:WAVE") {{ field(FTVL, "{element}") field(NELM, "5") field(INP, {values}) }}\n'
        'record(stringin, "P:NAME") { field(VAL, "lysozyme") field(PINI, "YES") }\n'
        'record(longin, "P:ONE") { field(VAL, "5") field(PINI, "YES") field(HIGH, "4") field(HSV, "MINOR") }\n'
    )
    program(soft_ioc_program, "-d", "types.db")
    pvs = [{"pv": f"ca://P:{name}", "name": name.partition(".")[0]} for name in ("WAVE", "NAME.VAL$", "ONE")]
    async with recording(pvs=pvs) as sink:
        await sink.until(lambda s: all(len(s.values(name)) for name in ("WAVE", "NAME", "ONE", "ONE.alarm")), timeout=40)
    assert sink.values("WAVE")[0].tolist() == ([b"a", b"bc", b"d"] if element == "STRING" else [7, 0, 9])
    assert sink.values("NAME").tolist() == [b"lysozyme"], "a long string is a text, not an array of characters"
    assert (sink.values("ONE").tolist(), sink.values("ONE.alarm").tolist()) == ([5], [b"MINOR HIGH"])


async def test_a_pv_whose_reading_is_forbidden_for_a_while_leaves_a_gap(
    program: Start, soft_ioc_program: Path, tmp_path: Path, recording: Callable[..., Any]
) -> None:
    (tmp_path / "peer.db").write_text(
        'record(calc, "P:COUNT") { field(SCAN, ".1 second") field(CALC, "VAL+1") field(ASG, "HIDE") }\n'
        'record(ao, "P:OPEN") { field(VAL, "1") field(PINI, "YES") }\n'
    )
    rules = 'ASG(DEFAULT) { RULE(1, WRITE) }\nASG(HIDE) { INPA("P:OPEN") RULE(0, READ) { CALC("A=1") } }\n'
    (tmp_path / "access.acf").write_text(rules)
    program(soft_ioc_program, "-a", "access.acf", "-d", "peer.db")
    async with recording(pvs=[{"pv": "ca://P:COUNT", "name": "COUNT"}]) as sink:
        await sink.until(lambda s: len(s.values("COUNT")) > 3, timeout=40)
        await aioca.caput("P:OPEN", 0.0, wait=True)
        await sink.until(lambda s: s.of(Disconnected))
        async with recording(pvs=["ca://P:COUNT", "ca://P:OPEN"]) as late:
            await late.until(lambda s: s.of(Disconnected) and len(s.values("P_OPEN")))
        assert not len(late.values("P_COUNT")), "who may not read from the start gets the others all the same"
        before = len(sink.values("COUNT"))
        await aioca.caput("P:OPEN", 1.0, wait=True)
        await sink.until(lambda s: len(s.values("COUNT")) > before + 3)
    for one in (sink, late):
        assert "Read access denied" in one.of(Disconnected)[0].why
    assert {gap.cause for gap in sink.gaps("COUNT")} == {Cause.DISCONNECT}
