"""A start on a spool with many segments: the work does not grow with them where it need not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.model import Label
from edge_agent.record.segment_writer import Closed
from edge_agent.runs.book import RunEntry, Stage, _closed_value
from edge_agent.seal.head import State
from edge_agent.spool import Spool
from edge_agent.spool.database import Database
from edge_agent.spool.state import UNDER
from edge_agent.storage import Disk

RUNS = 4


class Counting(Disk):
    """A real disk that counts what is opened and read."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def reopen(self, path: Path) -> int:
        self.opened.append(path.name)
        return super().reopen(path)

    def read_file(self, path: Path) -> bytes:
        self.opened.append(path.name)
        return super().read_file(path)


async def fill(house: Any, segments: int) -> None:
    """Signed runs with closed segments, as they wait for a target that is away."""
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    await house.desk.stop("bl")
    house.spool.state.raise_run_no(1 + RUNS)
    for number in range(2, 2 + RUNS):
        name = f"{number:06d}"
        other = replace(run, run_no=number, run_id=os.urandom(16), folder=f"p/bl/2026-11-24/{name}", label=Label())
        folder = house.folder / "runs" / name
        folder.mkdir()
        book = RunEntry(other, Stage.CLOSED, "session", "complete", 1)
        with house.spool.transaction():
            house.keeper.book.put(book)
            for ordinal in range(1, 1 + segments):
                path = folder / f"{name}_camera_image_{ordinal:06d}.h5"
                path.write_bytes(b"a segment")
                closed = Closed(
                    path, None, os.urandom(16), os.urandom(32), b"", State.CLOSED, 9, ordinal, "camera/image", {"camera/image": 1}, {}, {},
                    {}, {}, {},
                )  # fmt: skip
                house.keeper.book._state.put(f"segment/{name}/{ordinal:06d}", _closed_value(closed))
                house.keeper.add_segment(book, closed)
    await house.stop()


async def start(house: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], int]:
    """What a start opened, and how many rows it took from the database."""
    rows, real = [0], Database.rows

    def counted(database: Database, *arguments: Any) -> Any:
        found = real(database, *arguments)
        rows[0] += len(found)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Database, "rows", counted)
        await house.open("bl")
    opened = list(house.storage.opened)
    await house.stop()
    return opened, rows[0]


async def test_a_start_opens_no_segment_and_asks_the_database_once_a_run_at_most(
    new_house: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = new_house(storage=Counting())
    await fill(house, 150)
    opened, rows = await start(new_house(storage=Counting()), monkeypatch)
    assert not [name for name in opened if name.endswith(".h5")]
    assert len(opened) < 50, opened
    assert rows < 150, "not a row for each segment"


def test_what_is_under_a_prefix_is_found_by_the_index(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    for key in ("run/1", "run/2", "run0", "rum/9", "segment/1/1", "run/\U0010ffff"):
        spool.state.put(key, key.encode())
    assert list(spool.state.under("run/")) == ["run/1", "run/2", "run/\U0010ffff"]
    assert len(spool.state.under("")) >= 6
    (plan,) = spool._db.rows(f"EXPLAIN QUERY PLAN {UNDER}", ("a",))
    assert "SEARCH" in plan[3]
    spool.close()
