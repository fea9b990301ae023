"""What stands in vendors' files: headers, ingested tables and image series, and a reader that hostile files cannot bring further than down."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from adapters.files.readers import Readers, Unreadable
from adapters.testing import Adopted, Described, RecordingSink, Rows, Shown, Synced
from adapters.testing import Image as Got
from edge_agent.model import NO_TIME

Watch = Callable[..., Any]
Taken = Callable[..., Callable[[RecordingSink], bool]]

SCAN = "# Operator: 山田\n# Wavelength = 1.5406\n2theta (deg),counts,phase\n10.0,3,alpha\n10.1,,beta\n"


def rows(sink: RecordingSink, name: str) -> list[Any]:
    return [value for event in sink.of(Rows) if event.stream.name == name for value in event.block.values.tolist()]


@pytest.fixture
async def readers() -> AsyncIterator[Readers]:
    made = Readers()
    yield made
    await made.stop()


@pytest.mark.parametrize(
    ("data", "names", "values"),
    [
        (b"1 2\n3 4\n", ["column_1", "column_2"], [[1, 3], [2, 4]]),
        (b"a;b\n1;2\n", ["a", "b"], [[1], [2]]),
        (b"a\tb\r\n1\t2\r\n", ["a", "b"], [[1], [2]]),
        ("温度,圧力\n1,2\n".encode("cp932"), ["温度", "圧力"], [[1], [2]]),
        ("\ufefft,\"long, name\"\n1,2".encode(), ["t", "long, name"], [[1], [2]]),
    ],
)
async def test_tables_are_read_as_vendors_write_them(
    readers: Readers, tmp_path: Path, data: bytes, names: list[str], values: list[list[float]]
) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    answer = await readers.ask(tmp_path / "a.csv", "rows")
    assert answer.said["names"] == names
    assert [column.data.tolist() for column in answer.columns] == values
    assert answer.said["next"] == len(data)


async def test_headers_say_what_they_hold(readers: Readers, tmp_path: Path) -> None:
    (tmp_path / "scan.csv").write_text(SCAN)
    assert (await readers.ask(tmp_path / "scan.csv", "facts")).facts == {
        "Operator": "山田", "Wavelength": "1.5406", "columns": "2theta (deg), counts, phase",
    }  # fmt: skip
    picture = np.arange(12, dtype="<u2").reshape(3, 4)
    Image.fromarray(picture).save(tmp_path / "a.tif", description="sample 7")
    answer = await readers.ask(tmp_path / "a.tif", "facts")
    assert {"width": 4, "height": 3, "pages": 1, "ImageDescription": "sample 7"}.items() <= answer.facts.items()
    assert np.array_equal(answer.columns[0].data, picture)
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file.create_group("entry").attrs["NX_class"] = "NXentry"
        file["entry/title"] = "a scan"
        file["entry/energy"] = 12.4
        file["entry/data"] = np.ones((2, 3, 4), "<u2")
        file["entry/elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
    answer = await readers.ask(tmp_path / "a.nxs", "facts")
    assert answer.facts == {
        "entry@NX_class": "NXentry", "entry/title": "a scan", "entry/energy": 12.4, "entry/data": "uint16 2x3x4",
    }  # fmt: skip
    assert answer.columns[0].data.shape == (3, 4)


@pytest.mark.parametrize("name", ["a.csv", "a.tif", "a.h5"])
async def test_what_is_broken_is_said_and_the_next_file_is_read(readers: Readers, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x00\xff broken" * 10)
    with pytest.raises(Unreadable):
        await readers.ask(tmp_path / name, "facts")
    (tmp_path / "good.csv").write_text("1,2\n")
    assert (await readers.ask(tmp_path / "good.csv", "rows")).said["rows"] == 1


async def test_a_file_that_wants_too_much_memory_brings_down_nothing_but_its_reader(readers: Readers, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.create_dataset("data", (40_000, 40_000), "<f8", chunks=(40_000, 4_000), compression="gzip")
    with pytest.raises(Unreadable):
        await readers.ask(tmp_path / "bomb.h5", "facts")
    (tmp_path / "good.csv").write_text("1,2\n")
    assert (await readers.ask(tmp_path / "good.csv", "rows")).said["rows"] == 1


async def test_a_reader_that_hangs_is_ended(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    readers = Readers(seconds=0.5)
    with pytest.raises(Unreadable, match=r"not read within 0\.5 s"):
        await readers.ask(tmp_path / "a.csv", "rows")
    await readers.stop()


async def test_headers_go_into_the_record_and_a_picture_into_the_preview(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch(headers=True)
    Image.fromarray(np.ones((3, 4), "<u2")).save(folder / "a.tif", description="sample 7")
    await one.sink.until(taken("a.tif"))
    assert one.sink.of(Described)[-1].facts["file: ImageDescription"] == "sample 7"
    assert [(event.name, event.picture.shape) for event in one.sink.of(Shown)] == [("a.tif", (3, 4))]


async def test_the_columns_of_a_table_become_rows_that_are_durable_before_the_file_is_taken(
    folder: Path, watch: Watch, taken: Taken
) -> None:
    one = await watch(ingest={"csv": ["*.csv"]})
    (folder / "scan.csv").write_text(SCAN)
    await one.sink.until(taken("scan.csv"))
    streams = {event.stream.name: event.stream for event in one.sink.of(Rows)}
    assert {name: (stream.dtype, stream.unit) for name, stream in streams.items()} == {
        "2theta": ("<f8", "deg"), "counts": ("<f8", ""), "phase": ("|S64", ""), "file": ("|S255", ""),
    }  # fmt: skip
    assert rows(one.sink, "2theta") == [10.0, 10.1]
    assert np.isnan(rows(one.sink, "counts")[1])
    assert rows(one.sink, "phase") == [b"alpha", b"beta"]
    assert rows(one.sink, "file") == [b"scan.csv"]
    order = [type(event) for event in one.sink.events if isinstance(event, Synced | Adopted)]
    assert order == [Synced, Adopted]
    assert {int(t) for event in one.sink.of(Rows) if event.stream.name == "counts" for t in event.block.t_source} == {NO_TIME}


async def test_a_column_says_when(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch(ingest={"csv": ["*.csv"], "time": "when"})
    (folder / "a.csv").write_text("when,value\n2026-11-24T12:00:00.5+09:00,1\n1795000000.25,2\n")
    await one.sink.until(taken("a.csv"))
    (event,) = (event for event in one.sink.of(Rows) if event.stream.name == "value")
    first = int(dt.datetime(2026, 11, 24, 3, 0, tzinfo=dt.UTC).timestamp()) * 10**9 + 500_000_000
    assert event.block.t_source.tolist() == [first, 1_795_000_000_250_000_000]


async def test_what_cannot_be_read_is_taken_as_a_file_and_said(
    folder: Path, watch: Watch, taken: Taken, caplog: pytest.LogCaptureFixture
) -> None:
    one = await watch(ingest={"csv": ["*.csv"], "keep": False})
    (folder / "bad.csv").write_text("a,b\n1,2\n3\n")
    await one.sink.until(taken("bad.csv"))
    assert one.sink.of(Rows) == []
    assert any("'bad.csv' is taken as a file, its values cannot be read: ValueError: row 2 has 1 cells and not 2" in r.message for r in caplog.records)


async def test_a_series_of_images_becomes_frames_with_the_numbers_of_its_files(folder: Path, watch: Watch) -> None:
    one = await watch(ingest={"tiff": ["*.tif"], "keep": False})
    pictures = {n: np.full((3, 4), n, "<u2") for n in (1, 2, 4)}
    for n, picture in pictures.items():
        Image.fromarray(picture).save(folder / f".scan_{n:04d}.tif", format="TIFF")
        os.utime(folder / f".scan_{n:04d}.tif", (n, n))
        (folder / f".scan_{n:04d}.tif").rename(folder / f"scan_{n:04d}.tif")
    await one.sink.until(lambda s: len(s.of(Got)) == 3 and len(s.notes) == 3)
    assert [(event.frame.number, event.frame.t_source) for event in one.sink.of(Got)] == [(n, n * 10**9) for n in pictures]
    assert all(np.array_equal(event.frame.data, pictures[event.frame.number]) for event in one.sink.of(Got))
    assert one.sink.of(Got)[0].stream.counted
    (folder / "end.dat").touch()
    await one.sink.until(lambda s: s.of(Adopted))
    assert [event.item.name for event in one.sink.of(Adopted)] == ["end.dat"]


async def test_the_pages_of_one_file_become_frames(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch(ingest={"tiff": ["*.tif"]})
    pages = [Image.fromarray(np.full((3, 4), n, "|u1")) for n in range(3)]
    pages[0].save(folder / "stack_7.tif", save_all=True, append_images=pages[1:])
    await one.sink.until(taken("stack_7.tif"))
    assert [(event.frame.number, int(event.frame.data[0, 0])) for event in one.sink.of(Got)] == [(0, 0), (1, 1), (2, 2)]


async def test_a_restart_ingests_nothing_twice(folder: Path, watch: Watch, taken: Taken) -> None:
    keys = {"ingest": {"csv": ["*.csv"], "keep": False}}
    (folder / "a.csv").write_text("1,2\n")
    first = await watch(**keys)
    await first.sink.until(lambda s: s.notes)
    await first.stop()
    second = await watch(sink=RecordingSink(first.sink.catalogue, first.sink.notes), **keys)
    (folder / "b.csv").write_text("3,4\n")
    await second.sink.until(lambda s: len(s.notes) == 2)
    assert rows(second.sink, "column_1") == [3.0]


async def test_a_table_that_grows_is_read_line_by_line_also_over_a_restart(folder: Path, watch: Watch, taken: Taken) -> None:
    keys = {"ingest": {"csv": ["*.log"], "tail": True}, "settle": "2 s", "polling": True}
    one = await watch(**keys)
    with (folder / "t.log").open("w", buffering=1) as file:
        file.write("time value\n1 10\n2 2")
        await one.sink.until(lambda s: rows(s, "value") == [10.0])
        file.write("0\n")
        await one.sink.until(lambda s: rows(s, "value") == [10.0, 20.0])
        assert one.sink.of(Adopted) == []
        await one.stop()
        two = await watch(sink=RecordingSink(one.sink.catalogue, one.sink.notes), **keys)
        file.write("3 30\n4 40")
    await two.sink.until(taken("t.log"))
    assert rows(two.sink, "value") == [30.0, 40.0]
    assert two.sink.of(Adopted)[0].data == b"time value\n1 10\n2 20\n3 30\n4 40"
    await asyncio.sleep(0)
