"""The simulated camera: every image byte for byte, what it drops declared, what it says of itself described."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from p4p.nt import NTEnum, NTScalar
from p4p.server.thread import SharedPV

from adapters.epics import EpicsAdapter, EpicsConfig
from adapters.testing import Connected, Described, Disconnected, Image, Opened, Restarted
from edge_agent.model import Cause, Kind, Valid
from firmware_sim.launch import Device
from firmware_sim.truth import read_truth

StartDevice = Callable[..., Device]


def camera_at(device: Device, **more: Any) -> dict[str, Any]:
    return {"camera": "pva://SIM:", "addresses": [f"pva://127.0.0.1:{device.ready['port']}"], **more}


async def test_every_image_arrives_byte_for_byte_with_number_and_time(device: StartDevice, recording: Callable[..., Any]) -> None:
    camera = device("camera", "--rate", "40")
    async with recording(**camera_at(camera, codec="bitshuffle-lz4")) as sink:
        await sink.until(lambda s: s.of(Connected) and s.of(Described))
        camera.go()
        await sink.until(lambda s: len(s.frames("image")) > 40, timeout=20)
        sent = camera.stop()
        await sink.until(lambda s: len(s.frames("image")) == sent["image"])
    assert camera.truth is not None
    got = [
        (f.number, f.t_source, hashlib.sha256(f.data).hexdigest(), f.data.shape, f.data.dtype.str, f.valid) for f in sink.frames("image")
    ]
    assert got == [
        (item.unique_id, item.t, item.sha256, item.shape, "<u2", Valid.GOOD)
        for item in read_truth(camera.truth).items
        if item.stream == "image"
    ]
    stream = sink.of(Opened)[0].stream
    assert (stream.kind, stream.shape, stream.dtype, stream.counted) == (Kind.FRAMES, (512, 512), "<u2", True)
    assert (stream.source_uri, stream.codec, stream.attributes["wire_codec"]) == ("pva://SIM:Pva1:Image", "bitshuffle-lz4", "none")
    assert not sink.gaps("image")


async def test_images_are_handed_over_without_a_copy(device: StartDevice, recording: Callable[..., Any]) -> None:
    camera = device("camera", "--rate", "20", hold=False)
    async with recording(**camera_at(camera)) as sink:
        await sink.until(lambda s: len(s.frames("image")) > 3)
    assert not any(frame.data.flags.owndata or frame.data.flags.writeable for frame in sink.frames("image"))
    assert all(frame.data.flags.c_contiguous for frame in sink.frames("image"))


async def test_the_camera_describes_itself(device: StartDevice, recording: Callable[..., Any]) -> None:
    camera = device("camera", "--rate", "20")
    async with recording(**camera_at(camera)) as sink:
        await sink.until(lambda s: s.of(Described))
    facts: dict[str, str | int | float] = {}
    for event in sink.of(Described):
        facts |= event.facts
    known = {"manufacturer": "firmware-sim", "model": "Simulated detector", "serial_number": "C000001", "exposure_s": 0.05}
    assert facts | known == facts


async def test_settings_are_described_again_when_they_change_and_states_by_their_words(
    pv_server: Any, recording: Callable[..., Any]
) -> None:
    exposure, mode = SharedPV(nt=NTScalar("d"), initial=0.5), SharedPV(nt=NTEnum(), initial={"index": 1, "choices": ["Single", "Multiple"]})
    energy = SharedPV(nt=NTScalar("d"), initial=6.2)
    own = {"C:cam1:AcquireTime_RBV": exposure, "C:cam1:ImageMode_RBV": mode, "C:cam1:ThresholdEnergy_RBV": energy}
    pv_server.start(**{f"{name}": pv for name, pv in own.items()})
    table = {"camera": "pva://T:C:", "settings": ["cam1:ThresholdEnergy_RBV"], "addresses": [f"pva://127.0.0.1:{pv_server.port}"]}
    async with recording(**table) as sink:
        await sink.until(lambda s: s.of(Described), timeout=20)
        assert sink.of(Described)[0].facts == {"exposure_s": 0.5, "ImageMode_RBV": "Multiple", "cam1_ThresholdEnergy_RBV": 6.2}

        def put() -> None:
            exposure.post(0.25)
            mode.post(0)

        put()
        await sink.until(lambda s: {"exposure_s": 0.25} in [e.facts for e in s.of(Described)])
        await sink.until(lambda s: {"ImageMode_RBV": "Single"} in [e.facts for e in s.of(Described)])


async def test_a_dropped_exposure_shows_in_the_numbers_and_a_restart_is_declared(
    device: StartDevice, recording: Callable[..., Any]
) -> None:
    camera = device("camera", "--rate", "40", "--fault", "drop@0.2:3", "--fault", "empty@0.4", "--fault", "reset@0.6")
    async with recording(**camera_at(camera)) as sink:
        await sink.until(lambda s: s.of(Connected))
        camera.go()
        await sink.until(lambda s: s.of(Restarted) and len(s.frames("image")) > 40)
    numbers = [frame.number for frame in sink.frames("image")]
    (event,) = sink.of(Restarted)
    end = numbers.index(event.reset.last)
    assert (event.reset.cause, event.reset.first, numbers[end + 1]) == (Cause.RESTART, 1, 1)
    jumps = [b - a for a, b in itertools.pairwise(numbers[: end + 1]) if b - a != 1]
    assert jumps == [4], "three exposures are missing; finding that is the recorder's part"
    told = [e.frame.number if isinstance(e, Image) else "restart" for e in sink.events if isinstance(e, (Image, Restarted))]
    assert told[end : end + 3] == [event.reset.last, "restart", 1]
    assert not sink.gaps("image")


async def test_a_camera_killed_and_restarted_is_declared_and_goes_on(
    device: StartDevice, recording: Callable[..., Any], pva_port: int
) -> None:
    options = ("--rate", "20", "--port", str(pva_port))
    camera = device("camera", *options, hold=False)
    async with recording(**camera_at(camera)) as sink:
        await sink.until(lambda s: len(s.frames("image")) > 5)
        camera.kill()
        await sink.until(lambda s: s.of(Disconnected))
        await asyncio.to_thread(device, "camera", *options, hold=False)
        await sink.until(lambda s: s.of(Restarted) and len(s.frames("image")) > 20, timeout=60)
    (gap,) = sink.gaps("image")
    assert (gap.cause, gap.count) == (Cause.DISCONNECT, None)
    assert gap.t_from < gap.t_to
    assert [type(e) for e in sink.events if isinstance(e, (Connected, Disconnected))] == [Connected, Disconnected, Connected]


async def test_an_outage_of_a_camera_that_lasts_until_the_end_is_declared_all_the_same(
    device: StartDevice, recording: Callable[..., Any]
) -> None:
    camera = device("camera", "--rate", "20", hold=False)
    async with recording(**camera_at(camera)) as sink:
        await sink.until(lambda s: len(s.frames("image")) > 5)
        camera.kill()
        await sink.until(lambda s: s.of(Disconnected))
        assert not sink.gaps("image")
    (gap,) = sink.gaps("image")
    assert (gap.cause, gap.count) == (Cause.DISCONNECT, None)
    assert gap.t_from < gap.t_to


async def test_preview_shows_shape_and_type_of_the_images(device: StartDevice) -> None:
    camera = device("camera", "--rate", "20", hold=False)
    (stream,) = await EpicsAdapter("line", EpicsConfig.model_validate(camera_at(camera))).preview()
    assert (stream.key, stream.shape, stream.dtype) == ("line/image", (512, 512), "<u2")


async def test_preview_of_a_camera_before_its_first_exposure_lists_the_stream(device: StartDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.epics.adapter.PATIENCE_SECONDS", 1.5)
    monkeypatch.setattr("adapters.epics.pva_client.SEARCH_SECONDS", 0.2)
    camera = device("camera")
    (stream,) = await EpicsAdapter("line", EpicsConfig.model_validate(camera_at(camera))).preview()
    assert (stream.key, stream.shape) == ("line/image", ())
