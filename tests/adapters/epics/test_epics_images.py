"""Images that nobody should send, from a p4p server in this process: each is declared, none ends the subscription."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import bitshuffle
import numpy as np
import numpy.typing as npt
import pytest
from p4p import Value
from p4p.nt import NTNDArray, NTScalar
from p4p.server.thread import SharedPV

from adapters.epics.ndarray import NotAnImage, read_image
from adapters.testing import Connected, Disconnected, Image, Missing, Opened, Restarted
from edge_agent.model import NO_TIME, Cause, Gap, Valid

TYPE = NTNDArray.buildType()
FIELD = {"uint8": "ubyteValue", "uint16": "ushortValue", "float64": "doubleValue", "int8": "byteValue", "bool": "booleanValue"}
SCALAR = {"uint8": 5, "uint16": 6, "float64": 10, "int8": 1}


def picture(number: int, data: npt.NDArray[Any], t: float = 1_700_000_000, **fields: Any) -> Value:
    """An NTNDArray as areaDetector sends it; ``fields`` overwrite what is right."""
    return Value(
        TYPE,
        {
            "value": (FIELD[data.dtype.name], data.ravel()),
            "compressedSize": data.nbytes,
            "uncompressedSize": data.nbytes,
            "uniqueId": number,
            "codec": {"name": ""},
            "timeStamp": {"secondsPastEpoch": int(t), "nanoseconds": 5},
            "dimension": [{"size": size} for size in reversed(data.shape)],
        }
        | fields,
    )


def packed(number: int, data: npt.NDArray[Any], codec: str, payload: bytes, **fields: Any) -> Value:
    return picture(
        number,
        data,
        value=("ubyteValue", np.frombuffer(payload, np.uint8)),
        compressedSize=len(payload),
        codec={"name": codec, "parameters": SCALAR[data.dtype.name]},
        **fields,
    )


FRAME = np.arange(12, dtype=np.uint16).reshape(3, 4)


@pytest.fixture
async def camera(pv_server: Any, recording: Callable[..., Any]) -> Any:
    """(sink, pv) with the adapter running and the PV still empty."""
    pv = SharedPV(initial=Value(TYPE, {}))
    pv_server.start(image=pv)
    async with recording(image="pva://T:image", addresses=[f"127.0.0.1:{pv_server.port}"]) as sink:
        await sink.until(lambda s: s.events)
        yield sink, pv


def story(sink: Any) -> list[Any]:
    """What happened to the stream, in order: numbers of frames, gaps, resets, shapes."""
    told: list[Any] = []
    for event in sink.events:
        if isinstance(event, Image):
            told.append(event.frame.number)
        elif isinstance(event, Missing):
            told.append((event.gap.cause, event.gap.first, event.gap.last, event.gap.count))
        elif isinstance(event, Restarted):
            told.append((event.reset.cause, event.reset.last, event.reset.first))
        elif isinstance(event, Opened):
            told.append((event.stream.shape, event.stream.dtype))
    return told


async def test_a_changed_shape_or_type_opens_the_stream_anew(camera: Any) -> None:
    sink, pv = camera
    pv.post(picture(1, FRAME))
    pv.post(picture(2, FRAME.reshape(4, 3)))
    pv.post(picture(3, FRAME.astype(np.uint8)))
    pv.post(picture(4, np.zeros((2, 3, 4), np.uint8)))
    await sink.until(lambda s: len(s.frames("image")) == 4)
    assert story(sink) == [((3, 4), "<u2"), 1, ((4, 3), "<u2"), 2, ((3, 4), "|u1"), 3, ((2, 3, 4), "|u1"), 4]


async def test_an_unknown_codec_is_a_declared_gap_and_the_next_image_is_recorded(camera: Any, caplog: pytest.LogCaptureFixture) -> None:
    sink, pv = camera
    pv.post(picture(1, FRAME))
    pv.post(packed(2, FRAME, "webp", b"whatever"))
    pv.post(packed(3, FRAME, "webp", b"whatever"))
    pv.post(picture(4, FRAME))
    await sink.until(lambda s: len(s.frames("image")) == 2)
    assert story(sink)[1:] == [1, (Cause.GARBAGE, 2, 2, 1), (Cause.GARBAGE, 3, 3, 1), 4]
    assert "codec 'webp' is not known here; set the camera's codec plugin to None or one of lz4, " in sink.gaps("image")[0].detail
    assert caplog.text.count("codec 'webp'") == 1, "said once, not at the camera's rate"


async def test_a_codec_that_is_unknown_from_the_start_is_said_and_counted_later(camera: Any) -> None:
    sink, pv = camera
    pv.post(packed(1, FRAME, "webp", b"xx"))
    pv.post(packed(2, FRAME, "webp", b"xx"))
    await sink.until(lambda s: s.of(Disconnected))
    assert "codec 'webp'" in sink.of(Disconnected)[0].why
    pv.post(picture(3, FRAME))
    await sink.until(lambda s: s.frames("image"))
    (gap,) = sink.gaps("image")
    assert (gap.cause, gap.count) == (Cause.GARBAGE, 2)


async def test_a_change_of_the_codec_opens_the_stream_anew(camera: Any) -> None:
    sink, pv = camera
    frame = np.random.default_rng(1).poisson(3, (64, 48)).astype(np.uint16)
    pv.post(packed(1, frame, "zlib", zlib.compress(frame.tobytes())))
    pv.post(packed(2, frame, "bslz4", bitshuffle.compress_lz4(frame).tobytes()))
    pv.post(picture(3, frame))
    await sink.until(lambda s: len(s.frames("image")) == 3)
    streams = [event.stream for event in sink.of(Opened)]
    assert [(stream.packed, stream.codec) for stream in streams] == [(True, "deflate"), (True, "bitshuffle-lz4"), (False, None)]
    assert [stream.attributes["wire_codec"] for stream in streams] == ["zlib", "bslz4", "none"]


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda: picture(2, FRAME, dimension=[{"size": 4}, {"size": 4}]), "12 pixels do not fit the dimensions (4, 4)"),
        (lambda: picture(2, FRAME, dimension=[]), "do not fit the dimensions ()"),
        (lambda: picture(2, FRAME, dimension=[{"size": -4}, {"size": -3}]), "do not fit the dimensions (-3, -4)"),
        (lambda: packed(2, FRAME, "zlib", b"not zlib"), "does not begin with a zlib header"),
        (lambda: packed(2, FRAME, "zlib", b"x", dimension=[{"size": 2**30}, {"size": 2**10}]), "are more than"),
        (lambda: packed(2, FRAME, "bslz4", b"\xff\0\0\xffrubbish"), "bslz4 data does not end where its blocks say"),
        (lambda: packed(2, FRAME, "bslz4", bitshuffle.compress_lz4(FRAME).tobytes()[:-1]), "bslz4 data does not end"),
        (lambda: packed(2, FRAME, "lz4hdf5", b"rubbish"), "does not begin like an image of 24 bytes"),
        (lambda: packed(2, FRAME, "blosc", bytes(16)), "blosc data says 0 bytes packed in 0; 24 packed in 16 came"),
        (lambda: packed(2, FRAME.astype(np.uint8), "jpeg", b"\xff\xd8rubbish"), "jpeg data cannot be unpacked"),
        (lambda: picture(2, FRAME, codec={"name": "zlib", "parameters": 99}), "not the number of a pixel type"),
    ],
)
async def test_a_broken_image_is_declared_by_number_and_harms_nothing(camera: Any, broken: Callable[[], Value], says: str) -> None:
    sink, pv = camera
    pv.post(picture(1, FRAME))
    pv.post(broken())
    pv.post(picture(3, FRAME))
    await sink.until(lambda s: len(s.frames("image")) == 2)
    assert story(sink)[1:] == [1, (Cause.GARBAGE, 2, 2, 1), 3]
    assert says in sink.gaps("image")[0].detail


async def test_a_counter_that_begins_again_is_a_reset_before_the_frame(camera: Any) -> None:
    sink, pv = camera
    for number in (7, 8, 1, 2):
        pv.post(picture(number, FRAME))
    await sink.until(lambda s: len(s.frames("image")) == 4)
    assert story(sink)[1:] == [7, 8, (Cause.RESTART, 8, 1), 1, 2]


async def test_a_counter_goes_on_past_its_sign(camera: Any) -> None:
    sink, pv = camera
    pv.post(picture(2**31 - 1, FRAME))
    pv.post(picture(-(2**31), FRAME))
    await sink.until(lambda s: len(s.frames("image")) == 2)
    assert story(sink)[1:] == [2**31 - 1, 2**31]


async def test_the_same_exposure_again_is_not_a_second_one(camera: Any) -> None:
    sink, pv = camera
    pv.post(picture(1, FRAME))
    pv.post(picture(1, FRAME))
    pv.post(picture(2, FRAME))
    await sink.until(lambda s: len(s.frames("image")) == 2)
    assert story(sink)[1:] == [1, 2]


async def test_after_an_outage_the_numbers_that_passed_are_declared(camera: Any) -> None:
    sink, pv = camera
    pv.post(picture(5, FRAME))
    await sink.until(lambda s: s.frames("image"))
    pv.close()
    await sink.until(lambda s: s.of(Disconnected))
    pv.open(picture(9, FRAME))
    await sink.until(lambda s: len(s.frames("image")) == 2, timeout=20)
    assert story(sink)[1:] == [5, (Cause.DISCONNECT, 6, 8, None), 9]
    gap: Gap = sink.gaps("image")[0]
    assert gap.t_from == sink.frames("image")[0].t_arrival


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (6, [(Cause.DISCONNECT, None, None, None), 6]),
        (5, [6]),
        (2, [(Cause.DISCONNECT, None, None, None), (Cause.RESTART, 5, 2), 2]),
    ],
    ids=["next number", "same exposure", "began again"],
)
async def test_an_outage_costs_an_unknown_number_of_frames_unless_the_last_one_is_still_there(
    camera: Any, after: int, told: list[Any]
) -> None:
    sink, pv = camera
    frame = picture(5, FRAME)
    pv.post(frame)
    await sink.until(lambda s: s.frames("image"))
    pv.close()
    await sink.until(lambda s: s.of(Disconnected))
    pv.open(frame if after == 5 else picture(after, FRAME))
    await sink.until(lambda s: len(s.of(Connected)) == 2, timeout=20)
    if after == 5:
        pv.post(picture(6, FRAME))
    await sink.until(lambda s: len(s.frames("image")) == 2, timeout=20)
    assert story(sink)[1:] == [5, *told]


async def test_an_image_that_was_there_before_us_is_marked_so(pv_server: Any, recording: Callable[..., Any]) -> None:
    pv = SharedPV(initial=picture(41, FRAME))
    pv_server.start(image=pv)
    async with recording(image="pva://T:image", addresses=[f"127.0.0.1:{pv_server.port}"]) as sink:
        await sink.until(lambda s: s.frames("image"))
        pv.post(picture(42, FRAME))
        await sink.until(lambda s: len(s.frames("image")) == 2)
    assert [frame.valid for frame in sink.frames("image")] == [Valid.INITIAL, Valid.GOOD]


async def test_an_image_marked_invalid_and_one_without_a_time_are_kept_and_say_so(camera: Any) -> None:
    sink, pv = camera
    pv.post(picture(1, FRAME, alarm={"severity": 3, "status": 1}))
    pv.post(picture(2, FRAME, t=631_152_000, timeStamp={"secondsPastEpoch": 631_152_000, "nanoseconds": 0}))
    await sink.until(lambda s: len(s.frames("image")) == 2)
    first, second = sink.frames("image")
    assert (first.valid, first.status) == (Valid.BAD, 3 << 16 | 1)
    assert second.t_source == NO_TIME


async def test_a_pv_that_is_no_image_is_said_so(pv_server: Any, recording: Callable[..., Any]) -> None:
    pv_server.start(image=SharedPV(nt=NTScalar("d"), initial=1.0))
    async with recording(image="pva://T:image", addresses=[f"127.0.0.1:{pv_server.port}"]) as sink:
        await sink.until(lambda s: s.of(Disconnected))
    assert "the PV holds epics:nt/NTScalar:1.0, not an NTNDArray; record it with pvs =" in sink.of(Disconnected)[0].why


def attribute(name: str, value: Any, descriptor: str = "") -> dict[str, Any]:
    return {"name": name, "value": value, "descriptor": descriptor, "sourceType": 1, "source": f"SRC:{name}"}


async def test_attributes_of_the_frames_are_rows_at_their_time_and_only_when_they_change(camera: Any) -> None:
    sink, pv = camera
    for number in range(1, 5):
        listed = [attribute("Angle", number / 2, "of the sample"), attribute("Gain", "low" if number < 4 else "high"), attribute("Mode", 3)]
        pv.post(picture(number, FRAME, t=1_700_000_000 + number, attribute=listed))
    await sink.until(lambda s: len(s.values("image.Angle")) == 4 and len(s.values("image.Gain")) == 2 and len(s.values("image.Mode")))
    assert sink.values("image.Angle").tolist() == [0.5, 1.0, 1.5, 2.0]
    assert sink.values("image.Gain").tolist() == [b"low", b"high"]
    assert sink.values("image.Mode").tolist() == [3]
    times = [t for block in sink.blocks("image.Angle") for t in block.t_source.tolist()]
    assert times == [frame.t_source for frame in sink.frames("image")]
    marks = [mark for block in sink.blocks("image.Angle") if block.valid is not None for mark in block.valid.tolist()]
    assert marks == [Valid.GOOD] * 4, "a value for each frame, the first one too"
    described = {event.stream.name: event.stream.attributes for event in sink.of(Opened)}
    assert described["image.Angle"] == {"description": "of the sample", "attribute_source": "SRC:Angle"}
    assert len(sink.of(Disconnected)) == 0


@pytest.mark.parametrize(("wanted", "names"), [(False, set()), (["Gain"], {"image.Gain"})])
async def test_attributes_are_recorded_as_wanted(wanted: Any, names: set[str], pv_server: Any, recording: Callable[..., Any]) -> None:
    pv = SharedPV(initial=picture(1, FRAME, attribute=[attribute("Angle", 1.0), attribute("Gain", "low")]))
    pv_server.start(image=pv)
    async with recording(image="pva://T:image", addresses=[f"127.0.0.1:{pv_server.port}"], attributes=wanted) as sink:
        await sink.until(lambda s: s.frames("image") and len(s.of(Opened)) == 1 + len(names))
        pv.post(picture(2, FRAME, attribute=[attribute("Angle", 2.0), attribute("Gain", "low")]))
        await sink.until(lambda s: len(s.frames("image")) == 2)
        pv.close()
        await sink.until(lambda s: s.of(Disconnected))
        pv.open(picture(3, FRAME, attribute=[attribute("Gain", "low")]))
        await sink.until(lambda s: all(len(s.values(name)) == 2 for name in names), timeout=20)
    for name in names:
        marks = [mark for block in sink.blocks(name) if block.valid is not None for mark in block.valid.tolist()]
        assert marks == [frame.valid for frame in (sink.frames("image")[0], sink.frames("image")[-1])] == [Valid.INITIAL, Valid.GOOD]
        assert [gap.cause for gap in sink.gaps(name)] == [Cause.DISCONNECT]
    assert {event.stream.name for event in sink.of(Opened)} == {"image"} | names


async def test_a_recorder_that_refuses_frames_does_not_stop_the_camera(camera: Any) -> None:
    sink, pv = camera
    sink.accepts = False
    pv.post(picture(1, FRAME))
    await sink.until(lambda s: s.of(Image))
    sink.accepts = True
    pv.post(picture(2, FRAME))
    await sink.until(lambda s: [f.number for f in s.frames("image")] == [2])


def test_booleans_and_signed_bytes_have_a_type() -> None:
    for data, dtype in ((np.array([[True, False]]), "|u1"), (np.array([[-1, 2]], np.int8), "|i1")):
        image = read_image(picture(1, data))
        assert image is not None
        assert image.data.dtype.str == dtype


def test_an_empty_array_is_no_image_and_no_mistake() -> None:
    assert read_image(Value(TYPE, {"uniqueId": 3})) is None
    assert read_image(picture(0, np.zeros((0, 4), np.uint8))) is None


def test_a_mistake_carries_the_number() -> None:
    with pytest.raises(NotAnImage) as caught:
        read_image(packed(77, FRAME, "blosc", b"x"))
    assert caught.value.number == 77
