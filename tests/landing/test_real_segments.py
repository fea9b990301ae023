"""Segments that the recorder wrote, judged by the real worker in a landing service of its own process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.errors import IntegrityError, TargetUnreachable
from edge_agent.model import Access, Frame, ItemKind, Kind, Label, OutboxItem, RunContext, Stream
from edge_agent.record.recorder import Recorder
from edge_agent.record.recording import Recording
from edge_agent.record.segment_writer import Closed
from edge_agent.record.series import RunState
from edge_agent.record.session import new_session
from edge_agent.storage import DISK
from edge_agent.wire.refusal import Code, Refused
from landing.judge import WorkerJudge, parse_verdict

CAMERA = Stream(
    "camera", "image", Kind.FRAMES, "<u2", (16, 24), counted=True, codec="none", source_uri="pva://CAM:Image", source_type="NTNDArray"
)
LABEL = Label(Access.CLOSED, frozenset({"cloud"}))


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., OutboxItem]:
    """Record a short run with a session; its one segment as an item of the outbox."""

    def make(session: Any, name: str = "segment-1") -> OutboxItem:
        run = RunContext(os.urandom(16), 1, "demo-project", "beamline", time.time_ns(), "demo-project/beamline/2026-11-24/000001", LABEL)
        closed: list[Closed] = []
        folder = tmp_path / name
        folder.mkdir()
        recorder = Recorder()
        state = RunState(
            run,
            "BL05",
            folder,
            lambda: session,
            DISK,
            lambda: "{}",
            lambda: b"context",
            closed.append,
            lambda _: None,
            recorder.wait_for_disk,
            time.time_ns,
        )
        recording = Recording(recorder, state)
        channel = recording.frames(CAMERA)
        for number in range(5):
            data = np.full(CAMERA.shape, number, CAMERA.dtype)
            assert channel.offer(Frame(data, number, time.time_ns(), time.time_ns()))
        recording.close("complete").result(30)
        recorder.stop()
        [segment] = closed
        size = segment.path.stat().st_size
        return OutboxItem(
            name, ItemKind.SEGMENT, segment.path, f"{run.folder}/{segment.path.name}", size, run.run_id, 1, run.project, LABEL,
            segment.segment_id, segment.head,
        )  # fmt: skip

    return make


async def test_a_recorded_segment_lands_at_level_two_and_a_changed_one_does_not(
    site: Any, enrolled: Any, record: Any, progress: list[int]
) -> None:
    await site.start()
    agent = await enrolled()
    target = agent.https()
    good = record(agent.session)
    await target.send(good, progress.append)
    assert (site.home.space / good.remote).read_bytes() == good.path.read_bytes()
    bad = record(agent.session, "segment-2")
    data = bytearray(bad.path.read_bytes())
    at = data.index(np.full(8, 3, "<u2").tobytes())
    data[at] ^= 1
    bad.path.write_bytes(data)
    with pytest.raises(IntegrityError, match="does not verify") as error:
        await target.send(bad, progress.append)
    assert "level 0" in error.value.why
    assert "image" in error.value.why


async def test_a_recorded_segment_lands_over_mqtt(site: Any, enrolled: Any, record: Any, progress: list[int], new_mosquitto: Any) -> None:
    broker = await new_mosquitto()
    await site.start("--mqtt", broker.url)
    agent = await enrolled()
    item = record(agent.session)
    await agent.mqtt(broker.broker, message=20_000).send(item, progress.append)
    assert (site.home.space / item.remote).read_bytes() == item.path.read_bytes()


async def test_a_segment_signed_before_enrolment_is_refused_at_level_one(
    site: Any, enrolled: Any, record: Any, progress: list[int], tmp_path: Path
) -> None:
    from edge_agent.enrolment import open_identity

    early = open_identity(tmp_path / "agent")
    item = record(new_session(early.agent_id, early.key, (early.certificate,), 1))
    await site.start()
    agent = await enrolled("agent")
    assert agent.agent_id == early.agent_id
    with pytest.raises(IntegrityError, match="does not verify") as error:
        await agent.https().send(item, progress.append)
    assert "level 1" in error.value.why


async def test_a_file_that_is_no_hdf5_is_judged_not_feared(site: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    for content in (b"", b"hello", b"\x89HDF\r\n\x1a\n" + os.urandom(5000)):
        path.write_bytes(content)
        verdict = await WorkerJudge(site.home.root).judge(path)
        assert verdict.level == 0
        assert verdict.reason


async def test_a_judge_that_cannot_start_is_trouble_not_a_verdict(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landing.judge.MODULE", "edge_agent.no_such_worker")
    with pytest.raises(Refused) as error:
        await WorkerJudge(site.home.root).judge(tmp_path)
    assert error.value.refusal.code is Code.TROUBLE
    assert isinstance(error.value.refusal.error("cloud"), TargetUnreachable)


async def test_a_judge_that_hangs_is_ended(site: Any, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    verdict = await WorkerJudge(site.home.root, timeout=0.01).judge(tmp_path / "x")
    assert verdict.level == 0
    assert "longer than" in verdict.reason


@pytest.mark.parametrize("out", [b"", b"[]", b"{}", b"null", b'{"level": "x", "reason": ""}', b'{"level": 2, "reason": "", "head": "zz"}'])
def test_what_is_no_verdict_is_trouble(out: bytes) -> None:
    with pytest.raises(Refused) as error:
        parse_verdict(out)
    assert error.value.refusal.code is Code.TROUBLE
