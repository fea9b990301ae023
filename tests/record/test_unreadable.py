"""A codec whose library is not on this machine: its frames are refused and declared, and their segment can be closed and recovered."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.codec import blosc, decoder
from edge_agent.codec.native import unusable
from edge_agent.model import Cause, Frame, Gap, Packed

Make = Callable[..., Any]
WHY = "the package hdf5plugin is not installed"
DETAIL = f"the codec blosc cannot be used: {WHY}"


@pytest.fixture
def no_blosc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def find(package: str, pattern: str) -> Any:
        raise unusable(WHY, "pip install hdf5plugin")

    monkeypatch.setattr(blosc, "find_library", find)
    decoder.cache_clear()
    yield
    decoder.cache_clear()


def packed(kit: Any) -> Any:
    return replace(kit.CAMERA, codec="blosc", packed=True)


def frame(kit: Any, number: int) -> Frame:
    return replace(kit.frame(number), data=Packed(np.zeros(40, np.uint8), kit.CAMERA.shape, np.dtype("<u2")))


@pytest.mark.expects_errors
def test_frames_of_a_codec_that_cannot_be_loaded_are_refused_and_declared_as_one_gap(
    rig: Make, kit: Any, no_blosc: None, caplog: pytest.LogCaptureFixture
) -> None:
    run = rig()
    frames = run.recording.frames(packed(kit))
    assert [frames.offer(frame(kit, number)) for number in (1, 2, 3)] == [False, False, False]
    (closed,) = run.close()
    kit.check_signed([closed], run.facility)
    assert [(g.first, g.last, g.cause, g.detail) for g in closed.gaps["camera/image"]] == [(1, 3, "overload", DETAIL)]
    (said,) = caplog.records
    assert said.code == "CFG_CODEC_LIBRARY"
    assert WHY in said.getMessage()
    assert "pip install hdf5plugin" in said.getMessage()
    assert run.room.used == 0


@pytest.mark.expects_errors
def test_a_stream_that_comes_to_such_a_codec_and_goes_back_has_its_other_frames(rig: Make, kit: Any, no_blosc: None) -> None:
    run = rig()
    run.recording.frames(kit.CAMERA).offer(kit.frame(1))
    run.recording.frames(packed(kit)).offer(frame(kit, 2))
    run.recording.frames(kit.CAMERA).offer(kit.frame(3))
    segments = run.close()
    kit.check_chain(segments)
    kit.check_signed(segments, run.facility)
    assert list(kit.recorded_frames(segments)) == [1, 3]
    assert [(g.first, g.last) for closed in segments for g in closed.gaps.get("camera/image", [])] == [(2, 2)]


@pytest.mark.expects_errors
def test_a_segment_that_only_says_what_such_a_stream_lacks_is_recovered(rig: Make, kit: Any, no_blosc: None, tmp_path: Path) -> None:
    run = rig()
    run.recording.frames(packed(kit)).gap(Gap(Cause.DISCONNECT, None, None, None, kit.T0, kit.T0 + 5, "link down"))
    run.recorder.call(lambda: None).result(20)
    (series,) = run.recording.series()
    with series.segment.committing:
        series.segment.commit()
        folder = shutil.copytree(run.folder, tmp_path / "crashed")
    (closed,) = kit.recover_all(folder, run.facility, run.session.chain)
    kit.check_signed([closed], run.facility)
    assert "link down" in [g.detail for g in closed.gaps["camera/image"]]


@pytest.mark.expects_errors
def test_a_codec_that_cannot_be_loaded_under_pressure_costs_a_gap_and_no_segment(
    rig: Make, kit: Any, no_blosc: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The channel asks for the configured codec; the lighter one that it turns to later meets the series."""
    run = rig()
    frames = run.recording.frames(kit.CAMERA)
    with monkeypatch.context() as patch:
        patch.setattr(frames._yielding, "described", lambda full: packed(kit))
        frames.offer(frame(kit, 1))
    frames.offer(kit.frame(2))
    segments = run.close()
    kit.check_signed(segments, run.facility)
    assert list(kit.recorded_frames(segments)) == [2]
    assert [(g.first, g.last, g.detail) for closed in segments for g in closed.gaps.get("camera/image", [])] == [
        (1, 1, "could not be recorded: ConfigError")
    ]
