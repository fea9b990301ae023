"""Every framing that can be declared: what is sent comes back however it was read, and noise costs no frame around it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.serial.frame import BadFrame, Frame, make_frame
from adapters.serial.frame_config import FrameConfig
from adapters.serial.frame_splitter import FrameSplitter
from adapters.serial.splitter import DelimiterSplitter, Junk, LengthSplitter, Line, Piece, QuietSplitter, Splitter

MODBUS = {"kind": "crc16-modbus", "order": "little"}
FRAMINGS: dict[str, tuple[dict[str, Any], int | None]] = {
    "start and stop": ({"start": "STX", "stop": "ETX", "check": {"kind": "xor8", "after_stop": True}}, None),
    "start, length and CRC": ({"start": "AA 55", "length": {"type": "<u2"}, "check": {"kind": "crc16-ccitt-false"}}, None),
    "length inside a header": ({"start": "01", "length": {"at": 2, "type": ">u2", "counts": "frame"}, "check": {"kind": "crc32", "covers": "frame"}}, None),
    "length and CRC without a start": ({"length": {"type": "u1", "counts": "rest"}, "check": MODBUS}, None),
    "length over the payload only": ({"start": "7F", "length": {}, "stop": "0D", "check": {"kind": "sum8", "covers": "payload"}}, None),
    "HDLC": ({"start": "7E", "stop": "7E", "escape": {"byte": "7D", "xor": "20"}, "check": {"kind": "crc16-ibm-sdlc", "order": "little"}}, None),
    "SLIP": ({"start": "C0", "stop": "C0", "escape": {"byte": "DB", "codes": {"DC": "C0", "DD": "DB"}}, "check": {"kind": "crc8-smbus"}}, None),
    "DLE": ({"start": "DLE STX", "stop": "DLE ETX", "escape": {"byte": "DLE"}, "check": {"kind": "lrc"}}, None),
    "fixed length with a CRC": ({"start": "A5", "check": {"kind": "crc8-maxim-dow"}}, 12),
}  # fmt: skip


def framing(name: str) -> Frame:
    config, size = FRAMINGS[name]
    return make_frame(FrameConfig.model_validate(config), b"\r\n", size)


def payload_of(name: str) -> st.SearchStrategy[bytes]:
    if name == "fixed length with a CRC":
        return st.binary(min_size=10, max_size=10)
    if name == "start and stop":  # nothing is escaped, so the payload is text
        return st.text("0123456789. g", min_size=1, max_size=20).map(str.encode)
    return st.binary(min_size=2, max_size=40)


def bytes_of(found: list[Piece]) -> bytes:
    return b"".join(one.whole if isinstance(one, Line) else one.raw for one in found)


def fed(splitter: Splitter, data: bytes, sizes: list[int]) -> list[Piece]:
    found: list[Piece] = []
    for size in [*sizes, len(data) or 1]:
        found += splitter.feed(data[:size], 1)
        data = data[size:]
    return found


cuts = st.lists(st.integers(1, 9), max_size=30)
few = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize("name", FRAMINGS)
@few
@given(data=st.data())
def test_what_is_framed_comes_back_however_it_was_read(name: str, data: st.DataObject) -> None:
    frame = framing(name)
    payloads = data.draw(st.lists(payload_of(name), max_size=5))
    splitter = FrameSplitter(frame, 256)
    found = fed(splitter, b"".join(map(frame.encode, payloads)), data.draw(cuts))
    assert [one.raw for one in found if isinstance(one, Line)] == payloads
    assert [one for one in found if isinstance(one, Junk)] == []
    assert splitter.end() == []


@pytest.mark.parametrize("name", FRAMINGS)
@few
@given(data=st.data())
def test_whatever_comes_no_byte_of_it_is_dropped(name: str, data: st.DataObject) -> None:
    frame = framing(name)
    part = st.one_of(st.binary(max_size=60), payload_of(name).map(frame.encode), payload_of(name).map(frame.encode).map(lambda b: b[:-1]))
    stream = b"".join(data.draw(st.lists(part, max_size=6)))
    splitter = FrameSplitter(frame, 64)
    found = fed(splitter, stream, data.draw(cuts))
    if data.draw(st.booleans()):
        found += splitter.silence()
    found += splitter.end()
    flag = frame.start if frame.start == frame.stop else b""
    got = bytes_of(found)
    assert (got.replace(flag, b""), len(got) <= len(stream)) == (stream.replace(flag, b""), True) if flag else got == stream


@pytest.mark.parametrize("name", FRAMINGS)
@few
@given(data=st.data())
def test_a_frame_after_noise_and_a_silence_is_found(name: str, data: st.DataObject) -> None:
    frame, payload = framing(name), data.draw(payload_of(name))
    splitter = FrameSplitter(frame, 256)
    found = fed(splitter, data.draw(st.binary(max_size=80)), data.draw(cuts)) + splitter.silence()
    if not frame.counted:
        found += splitter.feed(frame.stop + b"\0" * frame.after_stop, 1)
    found = fed(splitter, frame.encode(payload), data.draw(cuts))
    assert payload in [one.raw for one in found if isinstance(one, Line)]


@pytest.mark.parametrize("name", [name for name in FRAMINGS if name != "start and stop"])
@few
@given(data=st.data())
def test_a_flipped_bit_costs_its_frame_and_no_other(name: str, data: st.DataObject) -> None:
    frame = framing(name)
    first, bad, last = (data.draw(payload_of(name)) for _ in range(3))
    broken = bytearray(frame.encode(bad))
    bit = data.draw(st.integers(len(frame.start) * 8, len(broken) * 8 - 1))
    broken[bit // 8] ^= 1 << bit % 8
    splitter = FrameSplitter(frame, 256)
    found = splitter.feed(frame.encode(first) + bytes(broken), 1)
    found += splitter.silence() + splitter.feed(frame.encode(last), 2) + splitter.silence()
    lines = [one.raw for one in found if isinstance(one, Line)]
    assert lines[0] == first
    assert bad not in lines[1:] or bad == last
    if frame.counted or frame.start != frame.stop:
        assert [one for one in found if isinstance(one, Junk)]


@given(st.binary(max_size=300), cuts, st.sampled_from(["delimiter", "length", "quiet"]))
def test_the_plain_splitters_drop_nothing_but_delimiters_and_blank_lines(stream: bytes, sizes: list[int], kind: str) -> None:
    splitter: Splitter = {
        "delimiter": DelimiterSplitter(b"\r\n", 20),
        "length": LengthSplitter(7),
        "quiet": QuietSplitter(0.02, 20),
    }[kind]
    found = fed(splitter, stream, sizes) + splitter.silence() + splitter.end()
    got = b"".join(one.raw for one in found)
    if kind == "delimiter":
        assert b"".join(got.split()) == b"".join(stream.replace(b"\r\n", b"").split())
    elif kind == "quiet":
        assert got == stream or not stream.strip()
    else:
        assert got == stream


def test_a_message_ends_with_a_silence_where_nothing_else_ends_it() -> None:
    splitter = QuietSplitter(0.02, 100)
    assert splitter.feed(b"bl/get/", 1) + splitter.feed(b"12pulse/0", 2) == []
    assert splitter.silence() == [Line(b"bl/get/12pulse/0", 1)]
    assert splitter.silence() == []


@pytest.mark.parametrize(
    ("config", "payload", "on_the_line"),
    [
        ({"start": "24", "stop": "CR LF", "check": {"kind": "xor8", "written": "hex", "mark": "2A"}}, b"PFEC,GPint,RMC05", b"$PFEC,GPint,RMC05*2D\r\n"),
        ({"check": MODBUS, "length": {"at": 2}}, bytes.fromhex("01 03 00 17"), bytes.fromhex("01 03 02 00 17")),
        ({"start": "7E", "stop": "7E", "escape": {"byte": "7D", "xor": "20"}}, b"a~b}c", b"~a}^b}]c~"),
        ({"start": "C0", "stop": "C0", "escape": {"byte": "DB", "codes": {"DC": "C0", "DD": "DB"}}}, b"\xc0\xdb", b"\xc0\xdb\xdc\xdb\xdd\xc0"),
        ({"start": "DLE STX", "stop": "DLE ETX", "escape": {"byte": "DLE"}}, b"1\x103", b"\x10\x021\x10\x103\x10\x03"),
        ({"start": "STX", "stop": "ETX", "check": {"kind": "xor8", "after_stop": True}}, b"12", b"\x0212\x03\x00"),
    ],
)  # fmt: skip
def test_frames_look_as_the_standards_say(config: dict[str, Any], payload: bytes, on_the_line: bytes) -> None:
    frame = make_frame(FrameConfig.model_validate(config), b"\r\n", None)
    assert frame.encode(payload).startswith(on_the_line)
    if frame.length is None:
        assert frame.encode(payload) == on_the_line
    assert frame.decode(frame.encode(payload)) == payload


def test_a_wrong_check_says_what_it_is_and_what_it_should_be() -> None:
    frame = framing("start, length and CRC")
    with pytest.raises(BadFrame, match=r"crc16-ccitt-false is .. .. and should be .. .."):
        frame.decode(frame.encode(b"abc")[:-1] + b"\0")


def test_a_stop_that_was_lost_costs_one_frame() -> None:
    splitter = FrameSplitter(make_frame(FrameConfig.model_validate({"start": "STX", "stop": "ETX"}), b"\r\n", None), 100)
    found = splitter.feed(b"\x0212.3\x0245.6\x03", 1)
    assert found == [Junk(b"\x0212.3", "does not end before the next one begins", 1), Line(b"45.6", 1, whole=b"\x0245.6\x03")]


def test_a_frame_carries_the_arrival_of_its_first_byte() -> None:
    splitter = FrameSplitter(make_frame(FrameConfig.model_validate({"start": "STX", "stop": "ETX"}), b"\r\n", None), 100)
    found = splitter.feed(b"xx\x02a", 1) + splitter.feed(b"b\x03\x02", 2) + splitter.feed(b"c\x03", 3)
    assert [(one.raw, one.t) for one in found] == [(b"xx", 1), (b"ab", 1), (b"c", 2)]


def test_noise_alone_is_survived_and_kept() -> None:
    import random

    noise = random.Random(5).randbytes(16384)
    for name in FRAMINGS:
        splitter = FrameSplitter(framing(name), 256)
        assert sum(len(bytes_of(splitter.feed(noise, i))) for i in range(2)) > 16384


@pytest.mark.parametrize(
    ("config", "size", "said"),
    [
        ({"start": "ZZ"}, None, "'ZZ' names no bytes; write hex digits or ASCII names"),
        ({"check": {"kind": "crc16-modbuss"}}, None, "did you mean crc16-modbus?"),
        ({"check": {"kind": "crc5-usb"}}, None, "has 5 bits"),
        ({"length": {}}, 8, "frame.length and fixed_length both say"),
        ({"length": {}, "escape": {"byte": "DLE"}}, None, "frame.escape is for frames that end with stop"),
        ({"length": {}, "check": {"kind": "lrc", "after_stop": True}}, None, "after_stop wants stop bytes"),
        ({"escape": {"byte": "7D 7E"}}, None, "escape is about single bytes"),
        ({"escape": {"byte": "7D", "xor": "20", "codes": {"DC": "C0"}}}, None, "xor and codes both say"),
        ({"start": "AA 55", "check": {"kind": "crc32"}}, 6, "fixed_length = 6 leaves no room"),
        ({"begin": "AA"}, None, "Extra inputs"),
    ],
)
def test_framings_that_do_not_fit_are_refused_with_what_would(config: dict[str, Any], size: int | None, said: str) -> None:
    with pytest.raises((ValueError, ValidationError)) as refused:
        make_frame(FrameConfig.model_validate(config), b"\r\n", size)
    assert said in str(refused.value)
