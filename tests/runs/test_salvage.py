"""What a start makes of data files that stand alone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from edge_agent.errors import DiskError
from edge_agent.model import Frame, Stream
from edge_agent.record.recovery import EMPTY


@pytest.mark.expects_errors
async def test_data_whose_journal_is_gone_is_set_aside_and_what_a_recovery_left_is_removed(
    new_house: Callable[..., Any], camera: Stream, frame: Callable[..., Frame]
) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.durable(camera, 1)
    folder = house.keeper.folder(run)
    await house.crash()
    (part,) = folder.glob("*.h5.part")
    data, name = part.read_bytes(), part.name.removesuffix(".part")
    (folder / f"{name}.journal").unlink()
    (folder / "000001_rows_000009.h5").write_bytes(b"finished")
    for left in ("000001_rows_000009.h5.part", "000001_rows_000009.h5.rebuilt"):
        (folder / left).write_bytes(b"half")
    house = new_house()
    await house.open("bl")
    assert house.recovered.damaged == [name]
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["000001_rows_000009.h5"]
    (entry,) = house.spool.quarantine.entries()
    assert "its journal is gone" in entry.why
    assert entry.path.read_bytes() == data
    await house.stop()


@pytest.mark.expects_errors
@pytest.mark.parametrize("left", [0, 20])
async def test_data_whose_journal_lost_everything_is_set_aside_when_the_agent_log_was_told_of_it(
    new_house: Callable[..., Any], camera: Stream, frame: Callable[..., Frame], left: int
) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.durable(camera, 1)
    await asyncio.to_thread(house.keeper.logbook.open_segments)
    folder = house.keeper.folder(run)
    await house.crash()
    (part,), (journal,) = folder.glob("*.h5.part"), folder.glob("*.h5.journal")
    data = part.read_bytes()
    assert len(data) < EMPTY
    journal.write_bytes(journal.read_bytes()[:left])
    house = new_house()
    await house.open("bl")
    assert house.recovered.damaged == [part.name.removesuffix(".part")]
    (entry,) = house.spool.quarantine.entries()
    assert [path.read_bytes() for path in entry.beside] == [data]
    assert "the agent log says that it was open" in entry.why
    await house.stop()


async def test_a_segment_that_a_crash_found_while_it_was_made_is_removed(new_house: Callable[..., Any]) -> None:
    house = new_house()
    await house.open("bl")
    folder = house.keeper.folder(house.desk.start("bl", project="p"))
    await house.crash()
    for name in ("000001_camera_image_000001.h5", "000001_strange.h5"):
        (folder / f"{name}.part").write_bytes(b"half")
        (folder / f"{name}.journal").write_bytes(b"")
    house = new_house()
    await house.open("bl")
    assert house.recovered.damaged == []
    assert house.spool.quarantine.entries() == ()
    assert list(folder.iterdir()) == []
    await house.stop()


@pytest.mark.expects_errors
@pytest.mark.parametrize("gone", ["data", "folder"])
async def test_a_segment_that_somebody_removed_while_it_was_open_is_declared_with_its_number_of_frames(
    new_house: Callable[..., Any], camera: Stream, frame: Callable[..., Frame], gone: str
) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    for number in range(3):
        house.groups["bl"].offer(camera, frame(number))
    await house.durable(camera, 3)
    folder = house.keeper.folder(run)
    if gone == "folder":
        shutil.rmtree(folder)
    else:
        (part,) = folder.glob("*.h5.part")
        part.unlink()
    await house.desk.stop("bl")
    await house.complete()
    (gap,) = house.gaps(run, camera)
    assert (gap.cause, gap.count) == ("disk", 3)
    assert "is damaged" in gap.detail
    totals = house.keeper.totals()[camera.key]
    assert (totals.arrived, totals.lost, totals.discrepancy) == (3, 3, 0)
    assert len(house.spool.quarantine.entries()) == (gone == "data")


async def test_a_segment_is_not_rebuilt_where_the_disk_has_no_room_for_it_and_is_when_it_has(
    new_house: Callable[..., Any], camera: Stream, frame: Callable[..., Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.durable(camera, 1)
    folder = house.keeper.folder(run)
    await house.crash()
    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    house = new_house()
    with monkeypatch.context() as patch:
        patch.setattr("edge_agent.runs.keeper.RECOVERY_ROOM", 1 << 60)
        with pytest.raises(DiskError, match="There is no room to recover"):
            await house.open("bl")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == left
    await house.crash()
    house = new_house()
    await house.open("bl")
    assert house.recovered.items == {camera.key: 1}
