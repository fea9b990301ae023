from __future__ import annotations

import asyncio
import sqlite3

import pytest

from edge_agent.agent import supervisor


@pytest.mark.expects_errors
async def test_a_part_of_the_daemon_that_fails_goes_on_and_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    failures: list[BaseException] = [sqlite3.OperationalError("database or disk is full"), RuntimeError("a bug"), asyncio.CancelledError()]
    reached = asyncio.Event()

    async def work() -> None:
        if failures:
            raise failures.pop(0)
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(supervisor.keep_going("free", work))
    async with asyncio.timeout(10):
        await reached.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert "free goes on in" in caplog.text
    assert "the spool's database was refused by the disk or by SQLite (database or disk is full)" in caplog.text
    assert "a bug" in caplog.text
