"""Streams that share tables: what went in comes out by tag, in order, also after a crash, and every loss has a name."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.model import Block, Cause, Gap, Kind, Stream, Valid
from edge_agent.record.recovery import recover
from edge_agent.record.segment_writer import JOURNAL
from edge_agent.record.series import Limits
from edge_agent.segment import layout, peek, tags
from edge_agent.segment.master import Part, write_master

Make = Callable[..., Any]

DTYPES = ("<f8", "<i4", "|S12")
ROLL_AT_ONCE = Limits(size=1, min_age=0.0)


def tag(number: int, **more: Any) -> Stream:
    dtype = DTYPES[number % 3]
    return Stream(
        "plc", f"T{number:04d}", Kind.ROWS, dtype, unit="" if dtype == "|S12" else "degC", source_uri=f"ca://PLC:T{number}", **more
    )


def block(stream: Stream, first: int, n: int = 1, *, initial: bool = False) -> Block:
    """Rows whose values tell the tag and their number in it."""
    numbers = int(stream.name[1:]) * 1000 + np.arange(first, first + n)
    times = (1_795_000_000_000_000_000 + numbers).astype("<i8")
    valid = np.full(n, int(Valid.INITIAL), "|u1") if initial else None
    return Block(numbers.astype(stream.dtype), times, times + 5, valid=valid)


def read(closed: Any, kit: Any) -> dict[str, list[Any]]:
    """The values of each tag in a closed segment, over all lines that name it."""
    data, found = kit.contents(closed), {}
    for number, line in enumerate(peek.tags_of(closed.path)):
        table = f"{tags.GROUP}/{line.table}"
        found.setdefault(line.source_id, []).extend(data[f"{table}/value"][data[f"{table}/tag"] == number].tolist())
    return found


def read_all(segments: Sequence[Any], kit: Any) -> dict[str, list[Any]]:
    whole: dict[str, list[Any]] = {}
    for closed in segments:
        for key, values in read(closed, kit).items():
            whole.setdefault(key, []).extend(values)
    return whole


def gaps_in(path: Path) -> list[tuple[str, str, int]]:
    with h5py.File(path) as file:
        gaps = file["/entry/tags/gaps"]
        return list(zip(gaps["source_id"].asstr()[()], gaps["cause"].asstr()[()], gaps["count"][()].tolist(), strict=True))


@pytest.fixture
def shared(rig: Make, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Rigs in which all streams of single values share tables, with chunks that fill soon."""
    monkeypatch.setattr(layout, "ROW_CHUNK", 64)

    def make(**options: Any) -> Any:
        run = rig(**options)
        run.recording.own_streams = 0
        return run

    return make


def test_two_thousand_tags_are_conserved_and_both_verifiers_agree(rig: Make, kit: Any, tmp_path: Path) -> None:
    run = rig()
    run.recording.known_rows = 2000
    streams = [tag(n) for n in range(2000)]
    channels = [run.recording.rows(stream) for stream in streams]
    wave = Stream("plc", "wave", Kind.ROWS, "<i2", (4,))
    run.recording.rows(wave).put_now(Block(np.ones((2, 4), "<i2"), *(np.full(2, kit.T0),) * 2))
    for channel in channels:
        channel.put_now(block(channel.stream, 0, initial=True))
    for turn in range(3):
        for channel in channels:
            channel.put_now(block(channel.stream, 1 + 4 * turn, 4))
    channels[7].gap(Gap(Cause.DISCONNECT))
    channels[8].gap(Gap(Cause.OVERFLOW, count=3))
    (closed,) = run.close()
    kit.check_signed([closed], run.facility)
    assert "*/S12, */f8, */i4 and 1 more" in kit.independent_verifier([closed.path], run.facility.pem(tmp_path))
    assert closed.counts == {stream.key: 12 for stream in streams} | {wave.key: 2}, "last known values are no events"
    assert read(closed, kit) == {stream.key: block(stream, 0, 13).values.tolist() for stream in streams}
    assert closed.last_time == {stream.key: int(block(stream, 12).t_arrival[0]) for stream in streams} | {wave.key: kit.T0}
    assert gaps_in(closed.path) == [(streams[7].key, "disconnect", -1), (streams[8].key, "overflow", 3)]
    assert {gap.source_id for each in closed.gaps.values() for gap in each} == {streams[7].key, streams[8].key}
    assert {path.rpartition("/")[0] for path in closed.shapes} == {
        "/entry/instrument/plc/wave", "/entry/tags/f8", "/entry/tags/i4", "/entry/tags/S12",
    }  # fmt: skip
    lines = peek.tags_of(closed.path)
    assert (lines[0].units, lines[2].units, lines[1].source_uri) == ("degC", "", "ca://PLC:T1")
    assert closed.path.stat().st_size < 2_000_000


def test_streams_beyond_the_number_share_and_those_before_keep_their_group(rig: Make, kit: Any) -> None:
    run = rig()
    run.recording.own_streams = 2
    for number in range(4):
        run.recording.rows(tag(number)).put_now(block(tag(number), 0, 2))
    run.recording.rows(tag(0)).put_now(block(tag(0), 2))
    (closed,) = run.close()
    kit.check_signed([closed], run.facility)
    data = kit.contents(closed)
    assert data["/entry/instrument/plc/T0000/value"].tolist() == [0.0, 1.0, 2.0]
    assert data["/entry/instrument/plc/T0001/value"].tolist() == [1000, 1001]
    assert read(closed, kit) == {"plc/T0002": [b"2000", b"2001"], "plc/T0003": [3000.0, 3001.0]}


def test_a_tag_that_is_described_anew_gets_another_line_and_no_new_segment(shared: Make, kit: Any) -> None:
    run = shared()
    kelvin = replace(tag(0), unit="K", attributes={"low": float("-inf"), "high": 2.5, "maker": "Größe"})
    integer = replace(tag(0), dtype="<i4", unit="K")
    for first, stream in enumerate((tag(0), kelvin, tag(0), integer)):
        run.recording.rows(stream).put_now(block(stream, first))
    (closed,) = run.close()
    assert read(closed, kit) == {"plc/T0000": [0.0, 2.0, 1.0, 3]}
    assert [(line.table, line.units) for line in peek.tags_of(closed.path)] == [("f8", "degC"), ("f8", "K"), ("i4", "K")]
    assert peek.tags_of(closed.path)[1].attributes == '{"high": 2.5, "low": "-inf", "maker": "Größe"}'
    assert [part.tolist() for part in peek.tag_rows(closed.path, "plc/T0000", "f8", ("value", "valid"), 2)] == [[1.0, 2.0], [1, 1]]


@pytest.mark.expects_errors
def test_a_tag_that_becomes_an_array_gets_a_group_and_one_that_cannot_be_written_costs_only_itself(
    shared: Make, kit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run = shared()
    array = replace(tag(0), shape=(2,))
    run.recording.rows(tag(0)).put_now(block(tag(0), 0))
    run.recording.rows(array).put_now(Block(np.ones((1, 2)), *(np.full(1, kit.T0),) * 2))
    for bad in (replace(tag(3), source_uri="\udcff"), Stream("plc", "odd", Kind.ROWS, "<M8[ns]")):
        run.recording.rows(bad).put_now(Block(np.zeros(1, bad.dtype), *(np.full(1, kit.T0),) * 2))
    run.recording.rows(tag(1)).put_now(block(tag(1), 0))
    (closed,) = run.close()
    kit.check_signed([closed], run.facility)
    assert kit.contents(closed)["/entry/instrument/plc/T0000/value"].tolist() == [[1.0, 1.0]]
    assert read(closed, kit) == {"plc/T0000": [0.0], "plc/T0001": [1000]}
    assert len([record for record in caplog.get_records("call") if record.levelname == "ERROR"]) == 2
    assert closed.counts == {"plc/T0000": 2, "plc/T0001": 1}


def test_tags_keep_their_numbers_over_the_segments_of_a_run_and_the_master_joins_them(shared: Make, kit: Any) -> None:
    run = shared(row_limits=ROLL_AT_ONCE)
    for turn, numbers in enumerate(((0, 1), (1, 2), (4, 0))):
        for number in numbers:
            run.recording.rows(tag(number)).put_now(block(tag(number), turn, 3))
    segments = run.close()
    assert len(segments) == 6
    kit.check_signed(segments, run.facility)
    kit.check_chain(segments)
    lists = [peek.tags_of(closed.path) for closed in segments]
    assert all(lists[-1][: len(each)] == each for each in lists)
    master = run.folder / "000001.nxs"
    write_master(master, run.state.run, "BL05", "complete", "{}", [Part(c.path.name, c.shapes, c.dtypes) for c in segments])
    with h5py.File(master) as file:
        assert file["/entry/tags/source_id"].asstr()[()].tolist() == [f"plc/T{n:04d}" for n in (0, 1, 2, 4)]
        assert [file[f"/entry/tags/{name}/tag"].shape for name in ("f8", "i4", "S12")] == [(6,), (9,), (3,)]
        assert (file["entry/data"].name, file["/entry/tags/i4"].attrs["signal"]) == ("/entry/data", "value")


@pytest.mark.parametrize("known", [True, False])
def test_after_a_crash_a_run_goes_on_with_its_list_and_else_the_master_leaves_a_segment_out(
    shared: Make, kit: Any, tmp_path: Path, known: bool
) -> None:
    run = shared()
    run.recording.rows(tag(0)).put_now(block(tag(0), 0))
    run.durable()
    folder = shutil.copytree(run.folder, tmp_path / "crashed")
    before = kit.recover_all(folder, run.facility, run.session.chain)
    again = shared(folder=folder, before=before)
    again.state.tags = again.state.tags if known else ()
    for number in (3, 0):
        again.recording.rows(tag(number)).put_now(block(tag(number), 1))
    segments = again.close()
    kit.check_chain(segments)
    parts = [Part(c.path.name, c.shapes, c.dtypes) for c in segments] + [Part("freed.h5", {"/entry/tags/f8/tag": (5,)}, {})]
    write_master(folder / "000001.nxs", run.state.run, "BL05", "complete", "{}", parts)
    with h5py.File(folder / "000001.nxs") as file:
        assert file["/entry/tags/source_id"].asstr()[()].tolist() == ["plc/T0000", "plc/T0003"] if known else ["plc/T0003", "plc/T0000"]
        assert file["/entry/tags/f8/tag"].shape == ((3,) if known else (2,))
    assert gaps_in(segments[0].path) == [("plc/T0000", "crash", -1)]
    assert gaps_in(segments[1].path) == [("plc/T0000", "crash", -1)], "the first row after it says until when"
    (gap,) = segments[1].gaps["plc/T0000"]
    assert (gap.t_from, gap.t_to) == (int(block(tag(0), 0).t_arrival[0]), int(block(tag(0), 1).t_arrival[0]))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40)), min_size=1, max_size=8), st.floats(0, 1))
def test_after_a_crash_every_tag_has_what_was_durable_and_a_gap(
    shared: Make, kit: Any, tmp_path: Path, blocks: list[tuple[int, int]], torn: float
) -> None:
    place = Path(tempfile.mkdtemp(dir=tmp_path))
    run = shared(folder=place / "run")
    wanted: dict[str, list[Any]] = {}
    for turn, (number, n) in enumerate(blocks):
        stream = tag(number)
        known = len(wanted.setdefault(stream.key, []))
        rows = block(stream, known, n, initial=turn == 0)
        run.recording.rows(stream).put_now(rows)
        wanted[stream.key] += rows.values.tolist()
    run.durable()
    (series,) = run.recording.series()
    confirmed, name = series.segment.confirmed_position, series.segment.name
    run.recording.rows(tag(9)).put_now(block(tag(9), 0, 70))
    run.durable()
    folder = shutil.copytree(run.folder, place / "torn")
    run.stop()
    journal = folder / (name + JOURNAL)
    whole = journal.read_bytes()
    journal.write_bytes(whole[: confirmed + round(torn * (len(whole) - confirmed))])
    closed = recover(folder, name, run.facility.boot(), kit.DISK, lambda: kit.T0, kit.POLICY, chain=run.session.chain)
    kit.check_signed([closed], run.facility)
    found = read(closed, kit)
    late = found.pop("plc/T0009", [])
    assert {key: values for key, values in found.items() if values} == wanted
    assert late in ([], block(tag(9), 0, 70).values.tolist())
    assert set(closed.last_time) == wanted.keys() | ({"plc/T0009"} if late else set())
    assert sum(closed.counts.values()) == sum(map(len, wanted.values())) + len(late) - blocks[0][1], "last known values are no events"
    listed = dict.fromkeys(line.source_id for line in peek.tags_of(closed.path))
    assert [(source, cause) for source, cause, _ in gaps_in(closed.path)] == [(key, "crash") for key in listed if key in closed.last_time]


def test_a_disk_that_fails_moves_the_tags_to_a_new_segment(shared: Make, kit: Any) -> None:
    run = shared(storage=kit.Faulty("sync_data", 4))
    wanted: dict[str, list[Any]] = {}
    for turn in range(12):
        for number in range(4):
            rows = block(tag(number), turn * 2, 2)
            run.recording.rows(tag(number)).put_now(rows)
            wanted.setdefault(tag(number).key, []).extend(rows.values.tolist())
        run.recorder.call(lambda: None).result(20)
    segments = run.close()
    kit.check_chain(segments)
    kit.check_signed(segments, run.facility)
    assert run.broken
    assert read_all(segments, kit) == wanted
    counted: dict[str, int] = {}
    for closed in segments:
        for key, n in closed.counts.items():
            counted[key] = counted.get(key, 0) + n
    assert counted == dict.fromkeys(wanted, 24)
