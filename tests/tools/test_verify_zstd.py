"""The verifier's own Zstandard decoder: whatever the library compresses, and nothing that is damaged."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
import zstandard


def samples():
    """Bytes of the kinds that tables hold, and extremes; small and larger than one block."""
    rng = np.random.default_rng(1)
    words = random.Random(1)
    yield from (b"", b"a", b"abc" * 5, bytes(9000), bytes(range(256)) * 9, rng.bytes(3000))
    for n in (10, 1024, 9000, 150_000):
        times = (np.arange(n // 8 + 1) * 10**8 + 1_795 * 10**15 + rng.integers(0, 1000, n // 8 + 1)).astype("<i8")
        yield rng.poisson(3, n).astype("u1").tobytes()
        yield times.tobytes()
        yield times.view("u1").reshape(-1, 8).T.tobytes()
        yield np.cumsum(rng.normal(0, 1, n // 8 + 1)).tobytes()
        yield " ".join(words.choice(["temperature", "pressure", "S S", "12.3", "g"]) for _ in range(n // 6 + 1)).encode()


@pytest.mark.parametrize("level", [-5, 1, 3, 19])
def test_what_the_library_compresses_is_decoded(tool, level):
    for number, data in enumerate(samples()):
        options = {"write_checksum": number % 2 == 0, "write_content_size": number % 3 != 0}
        assert tool.Zstd(len(data)).frame(zstandard.ZstdCompressor(level=level, **options).compress(data)) == data


def test_several_blocks_share_their_tables_and_offsets(tool):
    data = b"".join(b"%08d temperature = %d.%d K\n" % (n, n % 300, n % 7) for n in range(12_000))
    assert len(data) > 2 * (1 << 17)
    assert tool.Zstd(len(data)).frame(zstandard.compress(data, 5)) == data


def test_a_damaged_frame_gives_other_bytes_or_an_error_and_never_more_than_was_asked_for(tool):
    data = next(item for item in samples() if len(item) > 8000)
    frame = zstandard.ZstdCompressor(level=3, write_checksum=False).compress(b"".join(b"%d, " % n for n in range(2000)) + data)
    size = len(zstandard.decompress(frame))
    for at in range(0, len(frame), 7):
        changed = bytearray(frame)
        changed[at] ^= 1 << at % 8
        for raw in (bytes(changed), frame[:at]):
            try:
                assert len(tool.Zstd(size).frame(raw)) <= size
            except (tool.Bad, IndexError, ValueError, struct.error):
                continue


def test_more_than_a_chunk_holds_and_what_follows_a_frame_are_refused(tool):
    frame = zstandard.compress(bytes(5000))
    for most, raw, sentence in (
        (4999, frame, "a damaged sequence"),
        (2999, zstandard.compress(bytes(np.random.default_rng(2).bytes(3000))), "holds more than its chunk"),
        (5000, frame + b"x", "something follows"),
        (5000, b"\x28\xb5\x2f\xfd", "is not a frame"),
        (5000, frame[:4] + bytes([frame[4] | 1]) + frame[5:], "needs a dictionary"),
    ):
        with pytest.raises(tool.Bad, match=sentence):
            tool.Zstd(most).frame(raw)
