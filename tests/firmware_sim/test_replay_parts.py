"""What a playback shows of streams that come from one source, and what it leaves out, each with the clients of its own protocol."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from asyncua import Client
from p4p.client.thread import Context

from firmware_sim.replay.landed import INITIAL, Landed
from firmware_sim.replay.line import LinePart
from firmware_sim.replay.opcua import OpcUaPart
from firmware_sim.replay.playable import by_source, why_not
from firmware_sim.replay.pva import PvaPart
from firmware_sim.truth import TruthWriter

T0 = 1_800_000_000 * 10**9


def rows(name: str, uri: str, values: Any, times: Sequence[int] | None = None, status: Sequence[int] | None = None, **said: Any) -> Landed:
    """A stream whose first row is what was there before."""
    found = np.asarray(values)
    n = len(found)
    times = T0 + np.asarray(times if times is not None else range(n), np.int64)
    columns = {
        "value": found, "time": times, "time_arrival": times, "valid": np.where(times == times[0], INITIAL, 0),
        "status": np.asarray(status or [0] * n, np.uint32),
    }  # fmt: skip
    return Landed(f"ioc/{name}", uri, "rows", said.pop("unit", ""), said.pop("source_type", "pva NTScalar"), said, columns)


def frames(folder: Path, name: str, uri: str, pixels: Any, source_type: str = "pva NTNDArray") -> Landed:
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file["data"] = pixels
    n = len(pixels)
    columns = {"time": T0 + np.arange(n), "time_arrival": T0 + np.arange(n), "frame_number": np.arange(1, n + 1, dtype=np.uint64)}
    return Landed(f"ioc/{name}", uri, "frames", "", source_type, {}, columns, [(folder / f"{name}.h5", "/data", n)])


@pytest.fixture
def truth() -> TruthWriter:
    return TruthWriter("replay", "replay", 0, {}, None)


@contextmanager
def monitoring(ready: Any, pv: str) -> Iterator[queue.Queue[Any]]:
    seen: queue.Queue[Any] = queue.Queue()
    with Context("pva", conf=ready["env"], useenv=False, nt=False) as context:
        subscription = context.monitor(pv, seen.put, request="record[queueSize=100]")
        yield seen
        subscription.close()


async def test_an_image_is_shown_with_the_attributes_that_it_had(truth: TruthWriter, tmp_path: Path) -> None:
    image = frames(tmp_path, "image", "pva://CAM:Image", np.arange(24, dtype="<u2").reshape(3, 2, 4))
    angle = rows("image.Angle", image.uri, [0.5, 1.5], source_type="pva NTNDArray attribute", source_description="of the sample")
    part = PvaPart([image, angle], truth)
    ready = await part.open()
    with monitoring(ready, "CAM:Image") as seen:
        assert seen.get(timeout=20).value is None
        await part.show(image, 0)
        await part.show(angle, 1)
        await part.show(image, 1)
        first, second = seen.get(timeout=20), seen.get(timeout=20)
    assert [image.uniqueId for image in (first, second)] == [1, 2]
    assert second.value.tolist() == list(range(8, 16))
    assert [(a.name, a.value, a.descriptor) for a in first.attribute] == [("Angle", 0.5, "of the sample")]
    assert [a.value for a in second.attribute] == [1.5]
    await part.close()


async def test_a_value_is_shown_with_its_alarm_also_where_that_changed_alone(truth: TruthWriter) -> None:
    alarm = rows("T.alarm", "pva://X:T", np.array([b"NO_ALARM", b"MAJOR HIHI"], "|S256"), status=[0, 2 << 16 | 3])
    value = rows("T", "pva://X:T", [1.0, 2.0, 3.0], status=[0, 2 << 16 | 3, 0], unit="K")
    part = PvaPart([alarm, value], truth)
    ready = await part.open()
    assert ready["pv"] == {"ioc/T": "X:T", "ioc/T.alarm": "X:T"}
    with monitoring(ready, "X:T") as seen:
        assert seen.get(timeout=20).value == 1.0
        for stream, row in ((alarm, 1), (value, 1), (value, 2)):
            await part.show(stream, row)
        alone, high, well = (seen.get(timeout=20) for _ in range(3))
    assert (alone.changed("value"), alone.alarm.severity, alone.alarm.message) == (False, 2, "HIHI")
    assert (high.value, high.alarm.severity, high.alarm.status, high.alarm.message) == (2.0, 2, 3, "HIHI")
    assert (well.value, well.alarm.severity, well.alarm.message) == (3.0, 0, "")
    await part.close()


async def test_the_columns_of_a_table_are_one_table_again(truth: TruthWriter) -> None:
    when = [0, 1, 1, 1, 2]
    count = rows("table.count", "pva://X:table", np.array([7, 1, 2, 3, 9], "<i4"), when, source_type="pva NTTable")
    state = rows("table.state", "pva://X:table", np.array([b"in", b"a", b"b", b"c", b"end"], "|S256"), when, source_type="pva NTTable")
    part = PvaPart([count, state], truth)
    ready = await part.open()
    with monitoring(ready, "X:table") as seen:
        tables = [seen.get(timeout=20)]
        for row in range(1, 5):
            await part.show(count, row)
            await part.show(state, row)
        tables += [seen.get(timeout=20) for _ in range(2)]
    assert [table.value["count"].tolist() for table in tables] == [[7], [1, 2, 3], [9]]
    assert [list(table.value["state"]) for table in tables] == [["in"], ["a", "b", "c"], ["end"]]
    assert seen.empty()
    await part.close()


async def test_frames_that_came_over_opc_ua_are_shown_as_matrices_and_nothing_before_the_first(truth: TruthWriter, tmp_path: Path) -> None:
    pixels = np.arange(12, dtype="<u2").reshape(2, 2, 3)
    camera = frames(tmp_path, "Camera", "opc.tcp://h:4840#nsu=urn:plant;s=Camera", pixels, "opcua ByteString")
    part = OpcUaPart([camera], truth)
    ready = await part.open()
    async with Client(ready["endpoint"]) as client:
        node = client.get_node(ready["nodes"]["ioc/Camera"])
        assert (await node.read_data_value(raise_on_bad_status=False)).StatusCode.name == "BadWaitingForInitialData"
        for row, frame in enumerate(pixels):
            await part.show(camera, row)
            assert np.array_equal(await node.read_value(), frame)
    await part.close()


def line(*said: tuple[bytes, bool]) -> Landed:
    """Bytes that passed: what, and whether the agent sent it; in rows of 32 bytes at most, each of a time of its own."""
    values, status, times = [], [], []
    for n, (data, sent) in enumerate(said):
        for part in (data[i : i + 32] for i in range(0, len(data), 32)):
            values.append(np.frombuffer(part.ljust(32, b"\0"), np.uint8))
            status.append(len(part) + (256 if sent else 0))
            times.append(T0 + n)
    columns = {"value": np.array(values), "status": np.array(status, np.uint32), "time": np.array(times), "time_arrival": np.array(times)}
    return Landed("ioc/raw", "serial:///dev/ttyS0", "rows", "", "serial bytes", {}, columns)


async def play(part: LinePart, stream: Landed) -> None:
    for row in range(len(stream.columns["time"])):
        await part.show(stream, row)


LONG = b"CONFIGURE:VOLTAGE:RANGE:AUTOMATIC? CHANNEL A\r\n"
BINARY = bytes.fromhex("01 03 00 00 00 02 C4 0B")


@pytest.mark.parametrize("before", [[], [b"*IDN?\n"], [b"*IDN?\n", LONG, b"READ? A\n"]], ids=["nothing", "one", "much"])
async def test_whatever_was_asked_before_the_playback_each_question_gets_its_own_answers(truth: TruthWriter, before: list[bytes]) -> None:
    stream = line(
        (b"*IDN?\n", True), (b"maker\n", False), (LONG, True), (b"a long answer " * 5 + b"\n", False), (b"READ? A\n", True), (b"1\n", False),
        (BINARY, True), (b"\1\3\4", False), (b"\n\n", False), (b"READ? A\n", True), (b"2\n", False),
    )  # fmt: skip
    part = LinePart([stream], truth)
    ready = await part.open()
    reader, writer = await asyncio.open_connection(ready["host"], ready["port"])
    for question in before:
        writer.write(question)
        await writer.drain()
    playing = asyncio.create_task(play(part, stream))
    for question, answer in (
        (b"READ? A\n", b"1\n"), (b"*IDN?\n", b"maker\n"), (b"READ? A\n", b"2\n"), (BINARY, b"\1\3\4\n\n"), (LONG, b"a long answer " * 5 + b"\n"),
    ):  # fmt: skip
        writer.write(question)
        async with asyncio.timeout(4):
            assert await reader.readexactly(len(answer)) == answer
    await playing
    writer.close()
    await part.close()


async def test_what_an_instrument_sends_by_itself_goes_on_whatever_is_asked_meanwhile(truth: TruthWriter) -> None:
    stream = line((b"hello\n", False), (b"SIR\n", True), (b"1\n", False), (b"I4\n", True), (b"B1\n", False), (b"2\n", False))
    part = LinePart([stream], truth)
    ready = await part.open()
    reader, writer = await asyncio.open_connection(ready["host"], ready["port"])
    writer.write(b"SIR\n")
    await part.show(stream, 0)
    await part.show(stream, 2)
    assert await reader.readexactly(8) == b"hello\n1\n"
    writer.write(b"I4\n")
    await part.show(stream, 4)
    await part.show(stream, 5)
    assert await reader.readexactly(5) == b"B1\n2\n"
    writer.close()
    await part.close()


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("pva://X:M.RBV", ""),
        ("ca://X:M.VAL", ""),
        ("ca://X:M.RBV", "field of a record"),
        ("opc.tcp://h:4840#nsu=urn:m;s=Position/X", ""),
        ("opc.tcp://h:4840#ns=2;i=17/X", "part of a structure"),
        ("opc.tcp://h:4840#events", "events"),
        ("serial:///dev/ttyS0", ""),
    ],
)
def test_what_cannot_be_shown_is_left_out_with_the_reason(uri: str, why: str) -> None:
    said = why_not(rows("x", uri, [1.0]))
    assert why in said
    assert bool(said) == bool(why)


def test_a_stream_of_which_the_type_changed_is_left_out_unless_its_bytes_are_played() -> None:
    for uri, left_out in (("ca://X:M", True), ("serial:///dev/ttyS0", False)):
        stream = rows("x", uri, [1.0])
        stream.changed = True
        assert bool(why_not(stream)) == left_out


def test_an_alarm_that_is_all_that_was_recorded_of_a_pv_is_a_value_like_others() -> None:
    alarm = rows("T.alarm", "pva://X:T", np.array([b"NO_ALARM"], "|S256"))
    assert by_source([alarm]) == {"X:T": [alarm]}
