"""A session whose start the disk or the database refuses: nothing is open, and nothing goes on after a restart."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from edge_agent.errors import DiskError
from edge_agent.model import Frame, Stream
from edge_agent.storage import DISK
from edge_agent.storage.faults import Fault, Faults

New = Callable[..., Any]


def copies(house: Any) -> list[str]:
    """The runs of which there is a copy beside the database, done or not."""
    return sorted(path.name for path in (house.folder / "book").glob("run@*") if path.suffix != ".part")


def assert_nothing_began(house: Any) -> None:
    assert house.desk.groups["bl"].foreground is None
    assert house.keeper.lives() == []
    assert house.keeper.book.entries() == []
    assert copies(house) == [f"run@{run.name}" for run in house.runs()]


async def test_a_start_that_fails_at_any_call_leaves_nothing_open_for_the_next_start_either(
    new_house: New, camera: Stream, frame: Callable[..., Frame]
) -> None:
    disk = Faults(DISK)
    house = new_house(storage=disk)
    await house.open("bl")
    for after in (False, True):
        for call in count(1):
            disk.fault = Fault(len(disk.calls) + call, errno.EIO, after=after)
            try:
                house.desk.start("bl", project="p", title=f"{after} {call}")
            except DiskError:
                assert_nothing_began(house)
            else:
                break
        assert call > 8, "the log, the folder and the copy of the book were each refused"
        disk.fault = None
        await house.desk.stop("bl")
        await house.complete(house.spool.state.last_run_no())
    done = [run.run_no for run in house.runs()]
    with pytest.raises(DiskError):
        disk.fault = Fault(len(disk.calls) + 5, errno.EIO, times=1)
        house.desk.start("bl", project="p", title="the last one")
    disk.fault = None
    await house.crash()
    house = new_house()
    await house.open("bl")
    assert [run.run_no for run in house.runs()] == done
    assert house.desk.groups["bl"].foreground is None
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.desk.stop("bl")
    assert house.gaps(run, camera) == []


async def test_a_start_that_the_database_refuses_leaves_no_copy_and_keeps_its_number_for_the_next_try(
    new_house: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = new_house()
    await house.open("bl")
    with monkeypatch.context() as patch, pytest.raises(DiskError):
        put = house.spool.state.put

        def refuse(key: str, value: bytes) -> None:
            if key.startswith("run/"):
                raise sqlite3.OperationalError("disk I/O error")
            put(key, value)

        patch.setattr(house.spool.state, "put", refuse)
        house.desk.start("bl", project="p")
    assert_nothing_began(house)
    assert house.desk.start("bl", project="p").run_no == 1
    assert [entry.run.run_no for entry in house.keeper.book.entries()] == [1]
    assert len(copies(house)) == 1


async def test_a_folder_of_a_run_that_never_began_goes_at_the_next_start(new_house: New) -> None:
    house = new_house()
    await house.open("bl")
    begun = house.desk.start("bl", project="p")
    folder = house.keeper.folder(begun)
    never = folder.parent / f"{begun.run_no + 1:06d}"
    never.mkdir()
    await house.crash()
    house = new_house()
    await house.open("bl")
    assert (folder.is_dir(), never.exists()) == (True, False)
    assert house.desk.groups["bl"].foreground.entry.run.run_id == begun.run_id
