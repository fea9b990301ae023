from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.errors import IntegrityError
from edge_agent.model import ItemKind, Label, OutboxItem
from edge_agent.runs.settling import Settling
from edge_agent.spool import Spool

PATIENCE = 60.0


class Desk:
    """A spool, and files that come one after the other."""

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder)
        self.kicked = threading.Event()
        self.settling = Settling(self.spool, self.kicked.set)
        self.told: list[int] = []
        self.failures: dict[int, Exception] = {}

    def put(self, number: int) -> None:
        self.settling.put(lambda: self.add(number), lambda: self.told.append(number))

    def add(self, number: int) -> None:
        path = self.spool.folder / f"{number}.dat"
        item = OutboxItem(f"i{number}", ItemKind.FILE, path, f"p/{number}.dat", 1, bytes(16), 1, "p", Label())
        self.spool.outbox.add(item, ["disk"])
        if number in self.failures:
            raise self.failures[number]

    @property
    def there(self) -> list[int]:
        return [number for number in range(200) if self.spool.outbox.item(f"i{number}") is not None]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "spool")
    yield made
    made.settling.close()
    made.spool.close()


def busy(desk: Desk, work: Callable[[], None]) -> None:
    """Do ``work`` while the database belongs to somebody else; then let what came meanwhile in."""
    with desk.spool.transaction():
        work()
    desk.settling.settle()


def test_files_go_into_the_outbox_by_themselves_and_who_waits_is_told_in_order(desk: Desk) -> None:
    for number in range(150):
        desk.put(number)
    desk.settling.settle()
    assert desk.told == list(range(150))
    assert desk.there == list(range(150))
    assert desk.kicked.is_set()


def test_the_end_waits_for_what_was_put(desk: Desk) -> None:
    with desk.spool.transaction():
        desk.put(1)
    desk.settling.close()
    assert (desk.told, desk.there) == ([1], [1])


def test_nobody_needs_to_ask(desk: Desk) -> None:
    desk.put(1)
    assert desk.kicked.wait(PATIENCE)
    assert (desk.told, desk.there) == ([1], [1])


def test_what_came_while_the_database_was_busy_goes_in_together_or_not_at_all(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.failures[2] = sqlite3.OperationalError("database or disk is full")
    busy(desk, lambda: [desk.put(number) for number in range(4)] and None)
    # The first one may have been on its way alone when the others came.
    assert desk.told in ([], [0], [0, 1])
    assert desk.there == desk.told
    assert "a file waits for the spool's database" in caplog.text
    desk.failures.clear()
    desk.settling.settle()
    assert desk.told == desk.there == [0, 1, 2, 3]


@pytest.mark.expects_errors
def test_a_file_that_cannot_be_delivered_keeps_no_other_out(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    wrong = IntegrityError("It is known with other content.", why="somebody changed it", try_="look at both", code="OUTBOX_CONFLICT")
    desk.failures[2] = wrong
    busy(desk, lambda: [desk.put(number) for number in range(4)] and None)
    desk.settling.settle()
    assert desk.told == [0, 1, 2, 3]
    assert desk.there == [0, 1, 3]
    assert "a file cannot be delivered: It is known with other content" in caplog.text
