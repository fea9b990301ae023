"""The spool's database is lost or damaged: everything that has a file is handed on again, and no number is given out twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.model import Block, FileItem, Frame, Kind, Stream
from edge_agent.segment.run import verify_run

New = Callable[..., Any]


async def fill(
    house: Any, camera: Stream, tag: Stream, frame: Callable[..., Frame], rows: Callable[..., Block], vendor: Path, t0: int
) -> Any:
    """A complete run with a frame, a row and a file; then an open one with two frames."""
    files = Stream("vendor", "files", Kind.FILES)
    vendor.write_bytes(b"abc")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    house.groups["bl"].take(tag, rows([1.0], [t0]))
    item = FileItem(vendor, "scan.dat", 3, vendor.stat().st_mtime_ns, t0)
    live = house.groups["bl"].run_for_file(files, item)
    house.keeper.adopt(live, files, item, lambda: None)
    await house.durable(files, 1)
    await house.desk.stop("bl")
    await house.complete()
    house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(1))
    house.groups["bl"].offer(camera, frame(2))
    await house.durable(camera, 3)
    return run


@pytest.mark.parametrize("loss", ["removed", "damaged"])
async def test_what_has_a_file_is_handed_on_again_and_an_open_run_goes_on(
    new_house: New, camera: Stream, tag: Stream, frame: Callable[..., Frame], rows: Callable[..., Block], tmp_path: Path, t0: int, loss: str
) -> None:
    house = new_house(targets=("cloud",))
    await house.open("bl")
    run = await fill(house, camera, tag, frame, rows, tmp_path / "scan.dat", t0)
    items = {i.remote: (i.kind, i.size) for i in house.spool.outbox.items_of_run(run.run_id)}
    assert len(items) == 7
    before = {p.name: p.read_bytes() for p in house.keeper.folder(run).iterdir() if p.is_file()}
    await house.crash()
    for path in house.folder.glob("spool.db*"):
        if loss == "removed":
            path.unlink()
        else:
            path.write_bytes(b"SQLite format 3\0" + b"garbage" * 1000)
    house = new_house(targets=("cloud",))
    await house.open("bl")
    assert house.spool.fresh
    assert {i.remote: (i.kind, i.size) for i in house.spool.outbox.items_of_run(run.run_id)} == items
    assert {p.name: p.read_bytes() for p in house.keeper.folder(run).iterdir() if p.is_file()} == before
    assert verify_run(house.keeper.folder(run), None).reason == "signed by an unknown key"
    assert house.groups["bl"].foreground.entry.run.run_no == 2
    house.groups["bl"].offer(camera, frame(3))
    second = await house.desk.stop("bl")
    assert house.column(second, camera, "frame_number") == [1, 2, 3]
    assert house.desk.start("bl", project="p").run_no == 3
    await house.desk.stop("bl")
    for key, n in ((camera.key, 4), (tag.key, 1), ("vendor/files", 1)):
        totals = house.keeper.totals()[key]
        assert (totals.arrived, totals.spooled, totals.discrepancy) == (n, n, 0)
    assert house.spool.state.is_adopted("vendor/files", "scan.dat", 3, (tmp_path / "scan.dat").stat().st_mtime_ns)


async def test_copies_of_runs_whose_files_are_gone_are_swept_and_their_numbers_are_still_not_given_out_again(
    new_house: New, camera: Stream, frame: Callable[..., Frame]
) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.desk.stop("bl")
    await house.complete()
    copies = house.folder / "book"
    house.keeper.book.sweep(house.folder / "runs")
    assert (copies / "run@000001").exists()
    for path in house.keeper.folder(run).iterdir():
        path.unlink()
    house.keeper.book.sweep(house.folder / "runs")
    assert {path.name.partition("@")[0] for path in copies.iterdir()} == {"chain"}
    await house.stop()
    for path in house.folder.glob("spool.db*"):
        path.unlink()
    house = new_house()
    await house.open("bl")
    assert house.desk.start("bl", project="p").run_no == 2


@pytest.mark.expects_errors
async def test_a_copy_that_cannot_be_read_is_said_and_keeps_nothing_else_from_being_restored(
    new_house: New, camera: Stream, frame: Callable[..., Frame], caplog: pytest.LogCaptureFixture
) -> None:
    house = new_house(targets=("cloud",))
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.desk.stop("bl")
    await house.complete()
    await house.stop()
    (house.folder / "book" / "run@000009").write_bytes(b"\xffnonsense")
    for path in house.folder.glob("spool.db*"):
        path.unlink()
    house = new_house(targets=("cloud",))
    await house.open("bl")
    assert len(house.spool.outbox.items_of_run(run.run_id)) == 4
    assert "the copy of 000009 cannot be used" in caplog.text


async def interrupted(new_house: New, camera: Stream, frame: Callable[..., Frame]) -> tuple[Any, dict[Path, bytes]]:
    """A run that goes on after a crash, and the database as it was at the crash."""
    house = new_house(targets=("cloud",))
    await house.open("bl")
    house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.durable(camera, 1)
    await house.crash()
    older = {path: path.read_bytes() for path in house.folder.glob("spool.db*")}
    house = new_house(targets=("cloud",))
    await house.open("bl")
    house.groups["bl"].offer(camera, frame(1))
    return house, older


def put_back(house: Any, older: dict[Path, bytes]) -> None:
    """The database of an earlier day in the place of today's."""
    for path in house.folder.glob("spool.db*"):
        path.unlink()
    for path, data in older.items():
        path.write_bytes(data)


async def test_an_older_database_that_was_put_back_gives_no_number_twice_and_forgets_no_run(
    new_house: New, camera: Stream, frame: Callable[..., Frame]
) -> None:
    house, older = await interrupted(new_house, camera, frame)
    first = await house.desk.stop("bl")
    await house.complete()
    for number in (2, 3):
        second = house.desk.start("bl", project="p")
        house.groups["bl"].offer(camera, frame(number))
        await house.durable(camera, number + 1)
        if number == 2:
            await house.desk.stop("bl")
            await house.complete(2)
    runs = {run.run_no: {i.remote for i in house.spool.outbox.items_of_run(run.run_id)} for run in (first, second)}
    await house.crash()
    put_back(house, older)
    house = new_house(targets=("cloud",))
    await house.open("bl")
    assert {run.run_no for run in house.runs()} == {1, 2, 3}
    assert {i.remote for i in house.spool.outbox.items_of_run(first.run_id)} == runs[1]
    assert house.groups["bl"].foreground.entry.run.run_no == 3
    house.groups["bl"].offer(camera, frame(4))
    third = await house.desk.stop("bl")
    assert house.column(third, camera, "frame_number") == [3, 4]
    totals = house.keeper.totals()[camera.key]
    assert (totals.arrived, totals.spooled, totals.discrepancy) == (5, 5, 0)


async def test_an_older_database_of_the_same_run_writes_over_no_segment(
    new_house: New, camera: Stream, frame: Callable[..., Frame]
) -> None:
    house, older = await interrupted(new_house, camera, frame)
    run = await house.desk.stop("bl")
    await house.complete()
    files = {path.name: path.read_bytes() for path in house.keeper.folder(run).iterdir() if path.is_file()}
    await house.stop()
    put_back(house, older)
    house = new_house(targets=("cloud",))
    await house.open("bl")
    assert house.spool.fresh
    assert house.groups["bl"].foreground is None
    assert [entry.run.run_no for entry in house.keeper.book.past()] == [1]
    assert {path.name: path.read_bytes() for path in house.keeper.folder(run).iterdir() if path.is_file()} == files
    assert house.keeper.totals()[camera.key].spooled == 2
