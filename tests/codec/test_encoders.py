"""Round trips in memory, several threads at once, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.codec import NAMES, CodecError, Encoder, Filter, Readable, encoder
from edge_agent.codec.bitshuffle_lz4 import BitshuffleLz4
from edge_agent.codec.native import BitshuffleLibrary, best_library, find_library, plugin_library, processor_flags
from edge_agent.errors import ConfigError

ROOT = Path(__file__).parents[2]
ENCODERS = {"plugin": BitshuffleLz4(plugin_library()), **{name: encoder(name) for name in NAMES}}


@pytest.fixture(params=ENCODERS)
def codec(request: pytest.FixtureRequest) -> Encoder:
    return ENCODERS[request.param]


def encoded(codec: Encoder, raw: Readable, itemsize: int) -> tuple[bytes, int]:
    nbytes = memoryview(raw).nbytes
    out = bytearray(codec.bound(nbytes, itemsize))
    size, mask = codec.encode(raw, out, itemsize)
    return bytes(out[:size]), mask


@st.composite
def chunks(draw: st.DrawFn) -> tuple[bytes, int]:
    itemsize = draw(st.integers(1, 40))
    elements = draw(st.integers(1, 700))
    piece = draw(st.binary(min_size=1, max_size=64))
    raw = (piece * (itemsize * elements // len(piece) + 1))[: itemsize * elements]
    return raw, itemsize


@given(chunk=chunks())
def test_any_chunk_of_any_element_size_comes_back_and_never_grows(chunk: tuple[bytes, int]) -> None:
    raw, itemsize = chunk
    for codec in ENCODERS.values():
        stored, mask = encoded(codec, raw, itemsize)
        assert len(stored) <= len(raw)
        assert codec.decode(stored, mask, len(raw), itemsize) == raw


def test_each_libraries_chunks_are_read_by_the_other() -> None:
    raw = np.random.default_rng(3).poisson(1.6, (65, 67)).astype("<u2")
    one, two = ENCODERS["plugin"], ENCODERS["bitshuffle-lz4"]
    for writer, reader in ((one, two), (two, one)):
        assert reader.decode(*encoded(writer, raw, 2), raw.nbytes, 2) == raw.tobytes()


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, "<u4").reshape(4, 16)])
def test_every_kind_of_contiguous_buffer_is_taken(codec: Encoder, form: Callable[[bytes], Readable]) -> None:
    raw = bytes(range(16)) * 16
    stored, mask = encoded(codec, form(raw), 4)
    assert codec.decode(memoryview(stored), mask, len(raw), 4) == raw


def test_many_threads_encode_and_decode_on_one_encoder_at_once(codec: Encoder) -> None:
    threads = 4
    start = Barrier(threads)

    def work(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        out = bytearray(codec.bound(128 * 128 * 2, 2))
        start.wait(30)
        for _ in range(30):
            raw = rng.poisson(1.6, (128, 128)).astype("<u2")
            size, mask = codec.encode(raw, out, 2)
            if codec.decode(memoryview(out)[:size], mask, raw.nbytes, 2) != raw.tobytes():
                return False
        return True

    with ThreadPoolExecutor(threads) as pool:
        assert all(pool.map(work, range(threads)))


def test_encoding_does_not_import_the_plugins_and_registers_nothing() -> None:
    script = (
        "import sys, numpy as np\n"
        "from edge_agent.codec import NAMES, encoder\n"
        "for name in NAMES:\n"
        "    codec, raw = encoder(name), np.zeros(4096, '<u2')\n"
        "    out = bytearray(codec.bound(raw.nbytes, 2))\n"
        "    size, mask = codec.encode(raw, out, 2)\n"
        "    assert codec.decode(out[:size], mask, raw.nbytes, 2) == raw.tobytes()\n"
        "assert not {'hdf5plugin', 'bitshuffle', 'bitshuffle.h5', 'h5py'} & set(sys.modules), sorted(sys.modules)\n"
        "import h5py\n"
        "assert not h5py.h5z.filter_avail(32008) and not h5py.h5z.filter_avail(32015)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={"HDF5_PLUGIN_PATH": "::", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_avx2_wheel_is_used_exactly_when_the_processor_has_it() -> None:
    wheel = find_library("bitshuffle", "ext.*.so")
    assert (best_library().path == wheel) == ("avx2" in processor_flags())


def test_filter_values_are_those_of_the_design() -> None:
    dtype = np.dtype("<u2")
    assert encoder("bitshuffle-lz4").filters(dtype, (1, 512, 512)) == (Filter(32008, 1, (0, 4, 2, 0, 2)),)
    assert encoder("shuffle-zstd").filters(dtype, (4096,)) == (Filter(2, 1, (2,)), Filter(32015, 1, (3,)))
    assert encoder("none").filters(dtype, (4096,)) == ()


def test_an_unknown_codec_is_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigError, match=r"no codec 'gzip'[\s\S]*bitshuffle-lz4, shuffle-zstd, none"):
        encoder("gzip")


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(ConfigError, match=r"not installed[\s\S]*pip install no_such_package"):
        find_library("no_such_package", "*.so")


def test_a_package_without_the_library_is_told_apart() -> None:
    with pytest.raises(ConfigError, match=r"has no plugins/nothing[\s\S]*--force-reinstall hdf5plugin"):
        find_library("hdf5plugin", "plugins/nothing")


def test_a_library_without_the_functions_is_refused() -> None:
    other = find_library("hdf5plugin", "plugins/*h5lz4.*")
    with pytest.raises(ConfigError, match="bshuf_compress_lz4"):
        BitshuffleLibrary(other)


def test_an_unknown_processor_counts_as_old(tmp_path: Path) -> None:
    assert processor_flags(tmp_path / "absent") == frozenset()


@pytest.mark.parametrize(
    ("dtype", "chunk", "words"),
    [
        (np.dtype(object), (4,), "no fixed size"),
        (np.dtype("u1"), (), "scalar"),
        (np.dtype("u1"), (4, 0), "empty"),
        (np.dtype("f8"), (2**30,), "4 GiB"),
    ],
)
def test_types_and_chunks_that_hdf5_cannot_store_are_refused(codec: Encoder, dtype: np.dtype, chunk: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        codec.filters(dtype, chunk)


def test_buffers_that_do_not_fit_are_refused_before_anything_is_written(codec: Encoder) -> None:
    raw = np.zeros((8, 8), "<u2")
    out = bytearray(codec.bound(raw.nbytes, 2))
    with pytest.raises(ValueError, match="size it with bound"):
        codec.encode(raw, out[:-1], 2)
    with pytest.raises(ValueError, match="read-only"):
        codec.encode(raw, memoryview(bytes(out)), 2)
    with pytest.raises(ValueError, match="not C-contiguous"):
        codec.encode(raw[:, ::2], out, 2)
    with pytest.raises(ValueError, match="not a C-contiguous buffer"):
        codec.encode(memoryview(raw)[::2], out, 2)
    with pytest.raises(ValueError, match="Python objects"):
        codec.encode(np.array([None]), out, 8)
    with pytest.raises(ValueError, match="whole number of 3-byte"):
        codec.encode(raw, out, 3)
    with pytest.raises(ValueError, match="element size of 0"):
        codec.encode(raw, out, 0)
    with pytest.raises(ValueError, match="chunk of 0 bytes"):
        codec.encode(b"", out, 2)
    assert not any(out)


def test_codec_errors_stop_with_the_integrity_exit_code() -> None:
    assert CodecError("x").exit_code == 7
