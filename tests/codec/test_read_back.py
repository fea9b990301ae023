"""What the encoders write, HDF5 reads: every codec, type and awkward shape, through a file and a second process."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.codec import encoder
from edge_agent.codec.bitshuffle_lz4 import BitshuffleLz4
from edge_agent.codec.native import plugin_library

COMPOUND = np.dtype([("t", "<i8"), ("value", "<f4"), ("flag", "u1"), ("name", "S5")])
TYPES = ["u1", "<u2", ">u2", "<u4", "<i8", "<f4", "<f8", "?", "S16", COMPOUND]
SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((1,), (1,)),
    ((5,), (7,)),
    ((1001,), (77,)),
    ((3, 65, 67), (1, 65, 67)),
    ((2, 70, 50), (1, 64, 32)),
    ((5000,), (4096,)),
]
CODECS = [("bitshuffle-lz4", "best"), ("bitshuffle-lz4", "plugin"), ("shuffle-zstd", "best"), ("none", "best")]
FILTERS = {"bitshuffle-lz4": 1, "shuffle-zstd": 2, "none": 0}


def values(dtype: np.dtype[Any], shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    if dtype.names:
        data = np.empty(shape, dtype)
        for name in dtype.names:
            data[name] = values(dtype[name], shape, seed)
        return data
    counts = rng.poisson(1.6, shape)
    if dtype.kind == "S":
        return np.char.add(b"sample-", counts.astype("S3")).astype(dtype)
    return counts.astype(dtype)


@pytest.fixture(scope="module")
def everything(record: Callable[..., Any], make_case: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    cases = []
    for codec, library in CODECS:
        for index, dtype in enumerate(map(np.dtype, TYPES)):
            for number, (shape, chunk) in enumerate(SHAPES):
                name = f"{codec}-{library}-{index}-{number}"
                cases.append(make_case(name, codec, values(dtype, shape, number), chunk, library))
        noise = np.random.default_rng(7).integers(0, 256, (3, 1000), np.uint8)
        cases.append(make_case(f"{codec}-{library}-noise", codec, noise, (1, 1000), library))
    return cases, record(tmp_path_factory.mktemp("codec"), cases)


def test_every_dataset_reads_back_identically_in_another_process(everything: Any) -> None:
    cases, recorded = everything
    assert {"/" + case.name for case in cases} == set(recorded.read)
    for case in cases:
        shape, _, digest = recorded.read["/" + case.name]
        assert (case.name, tuple(shape), digest) == (case.name, case.data.shape, hashlib.sha256(case.data.tobytes()).hexdigest())


def test_hdf5_holds_exactly_the_declared_filters_after_creation_and_after_reopening(everything: Any) -> None:
    cases, recorded = everything
    for case in cases:
        declared, created, reopened = recorded.filters[case.name]
        assert declared == created == reopened
        assert len(declared) == FILTERS[case.codec]
        assert all(flags == 1 for _, flags, _ in declared)


def test_noise_is_stored_raw_with_every_filter_skipped(everything: Any) -> None:
    cases, recorded = everything
    for case in cases:
        if case.name.endswith("noise"):
            assert set(recorded.masks[case.name]) == {(1 << FILTERS[case.codec]) - 1}


def test_compressible_frames_are_stored_filtered(everything: Any) -> None:
    cases, recorded = everything
    for case in cases:
        if case.data.dtype == "<u2" and case.data.shape == (3, 65, 67):
            assert set(recorded.masks[case.name]) == {0}


def test_no_filter_is_registered_in_the_process_that_records(everything: Any) -> None:
    assert everything[1].registered is False


PLUGIN_WRITES = """
import json, sys
import h5py, hdf5plugin, numpy as np
with np.load(sys.argv[1]) as arrays, h5py.File(sys.argv[2], "w", libver=("earliest", "v110")) as file:
    for name, data in arrays.items():
        how = dict(hdf5plugin.Zstd(clevel=3), shuffle=True) if "zstd" in name else hdf5plugin.Bitshuffle()
        file.create_dataset(name, data=data, chunks=data.shape, **how)
    held = {}
    for name in arrays:
        plist = file[name].id.get_create_plist()
        held[name] = [plist.get_filter(i)[:3] for i in range(plist.get_nfilters())]
    chunks = {name: file[name].id.read_direct_chunk((0,) * file[name].ndim)[1].hex() for name in arrays}
print(json.dumps([held, chunks]))
"""


def test_filter_values_and_bitshuffle_bytes_equal_what_the_plugin_itself_writes(tmp_path: Path) -> None:
    codecs = {"bitshuffle": BitshuffleLz4(plugin_library()), "zstd": encoder("shuffle-zstd")}
    arrays = {f"{codec}-{dtype}": values(np.dtype(dtype), (3, 1003), 1) for codec in codecs for dtype in ("u1", "<u2", "<f8", "S16")}
    np.savez(tmp_path / "a.npz", **arrays)
    done = subprocess.run(
        [sys.executable, "-c", PLUGIN_WRITES, tmp_path / "a.npz", tmp_path / "a.h5"], capture_output=True, text=True, check=True
    )
    held, chunks = json.loads(done.stdout)
    for name, data in arrays.items():
        codec = codecs[name.split("-")[0]]
        assert [[f.id, f.flags, list(f.values)] for f in codec.filters(data.dtype, data.shape)] == held[name]
        stored = bytes.fromhex(chunks[name])
        assert codec.decode(stored, 0, data.nbytes, data.itemsize) == data.tobytes()
        if name.startswith("bitshuffle"):
            out = bytearray(codec.bound(data.nbytes, data.itemsize))
            size, mask = codec.encode(data, out, data.itemsize)
            assert (bytes(out[:size]), mask) == (stored, 0)
