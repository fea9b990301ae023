"""Stored bytes from a damaged disk or an enemy: a clear error, exactly the expected bytes, never more memory."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.codec import CodecError, Encoder, encoder

RAW = np.random.default_rng(5).poisson(1.6, (64, 65)).astype("<u2")
BIT, ZSTD, NONE = encoder("bitshuffle-lz4"), encoder("shuffle-zstd"), encoder("none")


def stored_by(codec: Encoder) -> bytes:
    out = bytearray(codec.bound(RAW.nbytes, 2))
    size, mask = codec.encode(RAW, out, 2)
    assert mask == 0
    return bytes(out[:size])


STORED = {codec.name: stored_by(codec) for codec in (BIT, ZSTD, NONE)}


@pytest.mark.parametrize("codec", [BIT, ZSTD, NONE], ids=lambda codec: codec.name)
def test_a_chunk_cut_at_any_length_is_refused(codec: Encoder) -> None:
    stored = STORED[codec.name]
    for length in {*range(40), *range(0, len(stored), 97), len(stored) - 1}:
        with pytest.raises(CodecError, match=r"does not decode\.\n  why: [\s\S]+\n  try: "):
            codec.decode(stored[:length], 0, RAW.nbytes, 2)


@pytest.mark.parametrize("codec", [BIT, ZSTD, NONE], ids=lambda codec: codec.name)
def test_bytes_after_the_end_are_refused(codec: Encoder) -> None:
    with pytest.raises(CodecError):
        codec.decode(STORED[codec.name] + b"\0", 0, RAW.nbytes, 2)


@pytest.mark.parametrize("codec", [BIT, ZSTD, NONE], ids=lambda codec: codec.name)
@pytest.mark.parametrize("mask", [-1, 0b100, 2**32 - 1])
def test_a_filter_mask_of_another_pipeline_is_refused(codec: Encoder, mask: int) -> None:
    with pytest.raises(CodecError, match="filter mask"):
        codec.decode(STORED[codec.name], mask, RAW.nbytes, 2)


@pytest.mark.parametrize(("codec", "mask"), [(BIT, 1), (ZSTD, 3)], ids=["bitshuffle", "zstd"])
def test_a_raw_chunk_of_another_size_is_refused(codec: Encoder, mask: int) -> None:
    assert codec.decode(RAW.tobytes(), mask, RAW.nbytes, 2) == RAW.tobytes()
    with pytest.raises(CodecError, match="8 bytes are stored where 8320 are expected"):
        codec.decode(bytes(8), mask, RAW.nbytes, 2)


def test_a_chunk_that_skipped_only_one_of_two_filters_decodes() -> None:
    shuffled = RAW.view("u1").reshape(-1, 2).T.tobytes()
    assert ZSTD.decode(shuffled, 0b10, RAW.nbytes, 2) == RAW.tobytes()
    assert ZSTD.decode(zstandard.compress(RAW.tobytes()), 0b01, RAW.nbytes, 2) == RAW.tobytes()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (struct.pack(">QI", 2**60, 8192), "declares 1152921504606846976 bytes where 8320 are expected"),
        (struct.pack(">QI", RAW.nbytes, 8191), "no multiple of 8 elements"),
        (struct.pack(">QI", RAW.nbytes, 2**32 - 16), "blocks need"),
        (struct.pack(">QI", RAW.nbytes, 16), "end before block|blocks need"),
        (struct.pack(">QII", RAW.nbytes, 8192, 2**32 - 1), "end before block 1 of 2"),
    ],
)
def test_a_bitshuffle_header_that_lies_is_refused(header: bytes, words: str) -> None:
    with pytest.raises(CodecError, match=words):
        BIT.decode(header + STORED[BIT.name][len(header) :], 0, RAW.nbytes, 2)


def test_a_zero_block_size_means_the_default_as_in_the_plugin() -> None:
    stored = STORED[BIT.name]
    assert BIT.decode(stored[:8] + bytes(4) + stored[12:], 0, RAW.nbytes, 2) == RAW.tobytes()


def test_an_lz4_block_that_does_not_fill_its_block_is_refused() -> None:
    stored = bytearray(STORED[BIT.name])
    (length,) = struct.unpack_from(">I", stored, 12)
    stored[16 : 16 + length] = bytes(length)
    with pytest.raises(CodecError, match="bitshuffle used -"):
        BIT.decode(stored, 0, RAW.nbytes, 2)


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
def test_a_zstd_bomb_is_refused_without_unpacking_it(declared: bool) -> None:
    size = 2**28
    packer = zstandard.ZstdCompressor().compressobj(size=size if declared else -1)
    bomb = b"".join([packer.compress(bytes(2**24)) for _ in range(size >> 24)]) + packer.flush()
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match=r"declares (no size|268435456 bytes) where 8320 bytes are expected"):
            ZSTD.decode(bomb, 0, RAW.nbytes, 2)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_zstd_frame_that_declares_less_than_it_holds_is_refused() -> None:
    bomb = bytearray(zstandard.ZstdCompressor().compress(bytes(2**28)))
    assert bomb[4] >> 6 == 2, "the content size has four bytes"
    at = 5 if bomb[4] >> 5 & 1 else 6
    struct.pack_into("<I", bomb, at, RAW.nbytes)
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match="no whole zstd frame"):
            ZSTD.decode(bomb, 0, RAW.nbytes, 2)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@given(
    name=st.sampled_from([BIT.name, ZSTD.name]),
    flips=st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), min_size=1, max_size=6),
)
def test_flipped_bits_give_an_error_or_exactly_the_expected_size(name: str, flips: list[tuple[int, int]]) -> None:
    stored = bytearray(STORED[name])
    for at, bits in flips:
        stored[at % len(stored)] ^= bits
    try:
        raw = encoder(name).decode(stored, 0, RAW.nbytes, 2)
    except CodecError:
        return
    assert len(raw) == RAW.nbytes


@given(name=st.sampled_from([BIT.name, ZSTD.name]), junk=st.binary(max_size=300), itemsize=st.sampled_from([1, 2, 8, 16]))
def test_junk_is_refused_or_decodes_to_the_expected_size(name: str, junk: bytes, itemsize: int) -> None:
    try:
        raw = encoder(name).decode(junk, 0, 4096, itemsize)
    except CodecError:
        return
    assert len(raw) == 4096
