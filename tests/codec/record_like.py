"""Writes files as the recorder does: no filter registered, filter values set by hand, chunks written directly.

    python record_like.py CASES.npz CASES.json OUT.h5

CASES.json is a list of {name, codec, library, chunk}; the array of each case is in CASES.npz under its name. Prints a JSON object:
`filters` {name: [declared, as created, as reopened]}, `masks` {name: [filter mask of each chunk]}, `registered` (whether the process
ended with the filters or hdf5plugin present). Run in a process of its own, since another test may have imported hdf5plugin here.
"""

from __future__ import annotations

import itertools
import json
import os
import sys

os.environ["HDF5_PLUGIN_PATH"] = "::"

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t, h5z

from edge_agent.codec import Buffers, encoder
from edge_agent.codec.bitshuffle_lz4 import BitshuffleLz4
from edge_agent.codec.native import plugin_library


def held(dataset: h5d.DatasetID) -> list:
    plist = dataset.get_create_plist()
    found = [plist.get_filter(index) for index in range(plist.get_nfilters())]
    return [[number, flags, list(values)] for number, flags, values, _ in found]


def padded(data: np.ndarray, offset: tuple, chunk: tuple) -> np.ndarray:
    block = data[tuple(slice(o, o + c) for o, c in zip(offset, chunk, strict=True))]
    whole = np.zeros(chunk, data.dtype)
    whole[tuple(slice(0, n) for n in block.shape)] = block
    return whole


def write(file: h5py.File, case: dict, data: np.ndarray, buffers: Buffers) -> tuple[list, list, list]:
    codec = BitshuffleLz4(plugin_library()) if case["library"] == "plugin" else encoder(case["codec"])
    chunk = tuple(case["chunk"])
    filters = codec.filters(data.dtype, chunk)
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk(chunk)
    for one in filters:
        plist.set_filter(one.id, h5z.FLAG_OPTIONAL, one.values)
    space = h5s.create_simple((0, *data.shape[1:]), (h5s.UNLIMITED, *data.shape[1:]))
    dataset = h5d.create(file.id, case["name"].encode(), h5t.py_create(data.dtype, logical=True), space, plist)
    dataset.set_extent(data.shape)
    masks = []
    for offset in itertools.product(*(range(0, n, c) for n, c in zip(data.shape, chunk, strict=True))):
        raw = padded(data, offset, chunk)
        with buffers.take(codec.bound(raw.nbytes, raw.itemsize)) as lease:
            size, mask = codec.encode(raw, lease.view, raw.itemsize)
            dataset.write_direct_chunk(offset, lease.view[:size], mask)
            assert codec.decode(lease.view[:size], mask, raw.nbytes, raw.itemsize) == raw.tobytes()
        masks.append(mask)
    return [[one.id, one.flags, list(one.values)] for one in filters], held(dataset), masks


def main(arrays: str, cases: str, target: str) -> None:
    with open(cases) as text:
        todo = json.load(text)
    filters, masks = {}, {}
    with np.load(arrays) as data, h5py.File(target, "w", libver=("earliest", "v110")) as file:
        for case in todo:
            declared, created, masks[case["name"]] = write(file, case, data[case["name"]], Buffers(2**26))
            filters[case["name"]] = [declared, created]
    with h5py.File(target, "r") as file:
        for name, known in filters.items():
            known.append(held(file[name].id))
    registered = "hdf5plugin" in sys.modules or h5z.filter_avail(32008) or h5z.filter_avail(32015)
    print(json.dumps({"filters": filters, "masks": masks, "registered": registered}))


if __name__ == "__main__":
    main(*sys.argv[1:])
