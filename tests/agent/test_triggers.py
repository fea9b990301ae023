from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_agent.agent import triggers
from edge_agent.model import Frame, Kind, Stream

Configure = Callable[..., Path]
IMAGE = Stream("camera", "image", Kind.FRAMES, "<u2", (8, 8), counted=True)


def frame(number: int, t_ns: int) -> Frame:
    return Frame(np.full((8, 8), number, "<u2"), number, t_ns, t_ns)


def camera(condition: str, look_back: str = "300 ms") -> str:
    return f'[instrument.camera]\nadapter = "driven"\ngroup = "bl"\nrun_while = "{condition}"\nlook_back = "{look_back}"\n'


def appear(file: Path, t_ns: int) -> None:
    """The file is there at once, with this time: its own clock is coarser than ours."""
    made = file.with_suffix(".made")
    made.touch()
    os.utime(made, ns=(t_ns, t_ns))
    made.rename(file)


async def test_a_run_is_open_while_a_file_is_there_and_has_the_frames_from_before_it_was_noticed(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path, read_space: Any
) -> None:
    shutter = tmp_path / "shutter"
    agent = await start(configure(camera(f"{shutter.as_uri()} == 1", look_back="60 s")))
    group = agent.desk.groups["bl"]
    inlet = (await until(lambda: adapters.SINKS.get("camera"))).open(IMAGE)
    opened = time.time_ns()
    assert inlet.offer(frame(0, opened - 1))
    assert inlet.offer(frame(1, opened))
    appear(shutter, opened)
    assert inlet.offer(frame(2, opened + 1))
    await until(lambda: group.foreground is not None)
    sent = 3
    assert inlet.offer(frame(sent, time.time_ns()))
    group.look_back = 0.0  # nothing is on its way any more: the run need not wait for it
    shutter.unlink()
    (past,) = await until(agent.keeper.book.past)
    assert (past.kind, past.outcome, past.run.trigger) == ("trigger", "complete", f"{shutter.as_uri()} == 1")
    assert read_space(tmp_path / "space" / past.run.folder)[IMAGE.key]["frame_number"] == list(range(1, sent + 1))
    await until(lambda: agent.keeper.totals()[IMAGE.key].ignored == 1)


async def test_a_trigger_that_is_on_when_the_agent_stops_ends_its_run_as_aborted(
    configure: Configure, start: Any, until: Any, tmp_path: Path
) -> None:
    shutter = tmp_path / "shutter"
    shutter.touch()
    agent = await start(configure(camera(f"{shutter.as_uri()} == 1")))
    (entry,) = await until(agent.keeper.book.entries)
    await agent.stop()
    agent = await start(configure(camera(f"{shutter.as_uri()} == 0")))
    (past,) = await until(agent.keeper.book.past)
    assert (past.run.run_no, past.outcome) == (entry.run.run_no, "aborted")


@pytest.mark.expects_errors
async def test_a_trigger_whose_watching_fails_is_watched_again(
    configure: Configure, start: Any, until: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edge_agent.agent.supervisor.FIRST_PAUSE", 0.01)
    attempts = 0

    async def watch(uri: str, **options: Any) -> AsyncIterator[tuple[float | str, int]]:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise RuntimeError("the IOC fell over")
        yield "open", time.time_ns()
        yield 1.0, time.time_ns()
        await asyncio.Event().wait()

    monkeypatch.setattr(triggers, "watcher", lambda uri: watch)
    agent = await start(configure(camera("file:///shutter > 0")))
    (entry,) = await until(agent.keeper.book.entries)
    assert entry.kind == "trigger"
    assert attempts == 2
    assert "trigger of bl" in caplog.text
    assert "the IOC fell over" in caplog.text
    assert "gives 'open': text and a number never equal" in caplog.text
