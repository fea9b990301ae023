from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from p4p.client.thread import Context

from firmware_sim.launch import Device
from firmware_sim.truth import Item

StartDevice = Callable[..., Device]


@dataclass
class Frames:
    """What a monitor of the image received; `images` leaves out the empty updates."""

    updates: list[Any] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, value: Any) -> None:
        with self.arrived:
            self.updates.append(value)
            self.arrived.notify_all()

    @property
    def images(self) -> list[Any]:
        return [value for value in self.updates if value.value is not None and value.value.size]

    def wait(self, updates: int) -> None:
        deadline = time.monotonic() + 30
        with self.arrived:
            while len(self.updates) < updates:
                assert self.arrived.wait(deadline - time.monotonic()), f"{len(self.updates)} of {updates} updates"


def stamp(value: Any) -> int:
    return int(value.secondsPastEpoch) * 1_000_000_000 + int(value.nanoseconds)


@contextmanager
def monitoring(camera: Device, conf: dict[str, str] | None = None) -> Iterator[tuple[Context, Frames]]:
    frames = Frames()
    with Context("pva", conf=conf or camera.ready["env"], useenv=False, nt=False) as context:
        subscription = context.monitor(camera.ready["pv"], frames, request="record[queueSize=100]")
        frames.wait(1)
        yield context, frames
        subscription.close()


def assert_equal(images: list[Any], items: list[Item]) -> None:
    assert len(images) == len(items)
    for image, item in zip(images, items, strict=True):
        pixels = image.value
        assert (image.uniqueId, stamp(image.timeStamp), stamp(image.dataTimeStamp)) == (item.unique_id, item.t, item.t)
        assert tuple(d.size for d in reversed(image.dimension)) == item.shape
        assert str(pixels.dtype) == item.dtype
        assert hashlib.sha256(pixels.astype("<u2").tobytes()).hexdigest() == item.sha256


def test_every_frame_equals_the_truth_byte_for_byte(device: StartDevice) -> None:
    camera = device("camera", "--rate", "40", "--count", "40", "--prefix", "BL05:CAM", hold=True)
    assert camera.ready["pv"] == "BL05:CAM:Pva1:Image"
    with monitoring(camera) as (_, frames):
        assert frames.updates[0].value is None
        assert frames.updates[0].uniqueId == 0
        camera.go()
        assert camera.wait_stopped() == {"image": 40}
        frames.wait(41)
    truth = camera.read_truth()
    assert_equal(frames.images, truth.of("image"))
    assert [item.unique_id for item in truth.of("image")] == list(range(1, 41))
    image = frames.images[0]
    assert image.getID() == "epics:nt/NTNDArray:1.0"
    assert image.compressedSize == image.uncompressedSize == 512 * 512 * 2
    assert image.codec.name == ""
    assert [(a.name, a.value) for a in image.attribute] == [("ColorMode", 0)]
    assert [(d.size, d.fullSize, d.offset, d.binning, d.reverse) for d in image.dimension] == [(512, 512, 0, 1, False)] * 2
    assert 1.4 < np.mean([one.value.mean() for one in frames.images]) < 1.8


def test_production_begins_when_a_client_has_connected(device: StartDevice) -> None:
    camera = device("camera", "--rate", "40", "--count", "5", "--rows", "32", "--columns", "48")
    with monitoring(camera) as (_, frames):
        frames.wait(6)
    assert_equal(frames.images, camera.read_truth().of("image"))
    assert frames.images[0].value.size == 32 * 48
    assert [d.size for d in frames.images[0].dimension] == [48, 32]


@pytest.mark.parametrize("keys", [("EPICS_PVA_NAME_SERVERS",), ("EPICS_PVA_ADDR_LIST",)], ids=["tcp", "search"])
def test_a_client_finds_it_by_name_server_or_by_search(device: StartDevice, keys: tuple[str, ...]) -> None:
    camera = device("camera", hold=True)
    conf = {"EPICS_PVA_AUTO_ADDR_LIST": "NO"} | {key: camera.ready["env"][key] for key in keys}
    with monitoring(camera, conf) as (context, _):
        truth = camera.read_truth()
        for name in ("AcquireTime_RBV", "Manufacturer_RBV", "Model_RBV", "SerialNumber_RBV"):
            value = context.get(f"{camera.ready['prefix']}:cam1:{name}", timeout=10)
            first = truth.initial_of(name)
            assert first is not None
            assert (value.value, stamp(value.timeStamp)) == (first.v, first.t)
        exposure = context.get(f"{camera.ready['prefix']}:cam1:AcquireTime_RBV", timeout=10)
        assert (exposure.value, exposure.display.units) == (0.05, "s")


def test_faults_show_in_the_stream_and_in_the_truth(device: StartDevice) -> None:
    faults = ("drop@0.3:4", "empty@0.6", "reset@0.9")
    options = [word for fault in faults for word in ("--fault", fault)]
    camera = device("camera", "--rate", "40", "--count", "50", "--rows", "16", "--columns", "16", *options, hold=True)
    with monitoring(camera) as (_, frames):
        camera.go()
        assert camera.wait_stopped() == {"image": 50}
        frames.wait(52)
    truth = camera.read_truth()
    assert (truth.sent, truth.dropped) == ({"image": 50}, {"image": 4})
    assert_equal(frames.images, truth.of("image"))
    assert [(one.uniqueId, list(one.dimension)) for one in frames.updates if one.value is None or not one.value.size] == [(0, []), (0, [])]
    drop, empty, reset = truth.faults
    assert (drop.kind, empty.kind, reset.kind) == ("drop", "empty", "reset")
    ids = [image.uniqueId for image in frames.images]
    first = drop.details["first_unique_id"]
    assert set(range(first, first + 4)).isdisjoint(ids[: ids.index(first + 4)])
    assert ids.index(1, 1) == ids.index(reset.details["last_unique_id"]) + 1
    assert ids[-1] == 54 - reset.details["last_unique_id"]


def test_the_same_seed_gives_the_same_frames(device: StartDevice) -> None:
    hashes = []
    for seed in (2, 2, 3):
        camera = device("camera", "--count", "3", "--rate", "100", "--rows", "64", "--columns", "64", seed=seed, hold=True)
        camera.go()
        camera.wait_stopped()
        hashes.append([item.sha256 for item in camera.read_truth().of("image")])
        camera.quit()
    assert hashes[0] == hashes[1] != hashes[2]
