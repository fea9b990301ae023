"""A disk that neither answers nor fails: the agent says so, and goes on when it answers."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_agent.agent.agent import status_json
from edge_agent.cli.verbs.status import sentence
from edge_agent.metrics import exposition
from edge_agent.model import Frame, Kind, Stream
from edge_agent.storage import Disk

Configure = Callable[..., Path]
CAMERA = '[instrument.camera]\nadapter = "driven"\ngroup = "bl"\n'
IMAGE = Stream("camera", "image", Kind.FRAMES, "<u2", (8, 8), counted=True)


class Stuck(Disk):
    """Syncs come back while ``answers`` is set."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()

    def sync_data(self, fd: int) -> None:
        self.answers.wait()
        super().sync_data(fd)


def frame(number: int) -> Frame:
    now = time.time_ns()
    return Frame(np.full((8, 8), number, "<u2"), number, now, now)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.agent.silent_disk.SILENT_AFTER", 0.3)
    monkeypatch.setattr("edge_agent.agent.silent_disk.LOOK", 0.02)
    monkeypatch.setattr("edge_agent.agent.agent.STATUS_PATIENCE", 0.2)


@pytest.mark.expects_errors
async def test_a_disk_that_does_not_answer_is_told_in_log_status_and_metrics_and_costs_nothing_when_it_answers_again(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Stuck()
    agent = await start(configure(CAMERA), storage=disk)

    def told() -> list[logging.LogRecord]:
        return [record for record in caplog.records if getattr(record, "code", "") == "DISK_SILENT"]

    async def durable() -> int:
        streams = (await agent.status()).instruments[0].streams
        return sum(stream.totals.arrived for stream in streams)

    async def all_durable() -> bool:
        return await durable() == 10

    async def first_durable() -> bool:
        return await durable() == 5

    sink = await until(lambda: adapters.SINKS.get("camera"))
    agent.desk.start("bl", project="p")
    images = sink.open(IMAGE)
    assert all(images.offer(frame(number)) for number in range(1, 6))
    await until(first_durable)
    assert (await agent.status()).disk_silent == 0
    try:
        disk.answers.clear()
        assert all(images.offer(frame(number)) for number in range(6, 11))
        await until(told)
        status = await agent.status()
        assert status.disk_silent > 0.3
        assert "has not answered" in sentence(json.loads(status_json(status)))
        monkeypatch.setenv("EDGE_AGENT_LANG", "ja")
        assert "応答していません" in sentence(json.loads(status_json(status)))
        (silence,) = [line for line in exposition(status).splitlines() if line.startswith("edge_agent_disk_silent_seconds ")]
        assert float(silence.split()[1]) > 0.3
        assert "dmesg" in told()[0].getMessage()
        assert await durable() == 5
    finally:
        disk.answers.set()
    await until(all_durable)
    await until(lambda: len(told()) == 2)
    assert [record.levelno for record in told()] == [logging.ERROR, logging.WARNING]
    assert (await agent.status()).disk_silent == 0


async def test_a_status_comes_also_while_the_disk_holds_the_database(configure: Configure, start: Any) -> None:
    agent = await start(configure(CAMERA))
    before = await agent.status()
    with agent.spool._db._lock:
        during = await agent.status()
    assert during.past == before.past
    assert (await agent.status()).site == before.site
